"""The flags of a command: which it has, and what is said of one that it has not."""

from __future__ import annotations

import difflib
import json
import shlex
from collections.abc import Collection, Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import tyro

from esper_agent.config import PolicyConfig
from esper_env.config import ConfigError, EnvOptions, MissingDataError

ELSEWHERE = {
    "lr": "learning-rate",
    "lam": "gae-lambda",
    "lambda": "gae-lambda",
    "discount": "gamma",
    "ent-coef": "entropy-coefficient",
    "entropy-coef": "entropy-coefficient",
    "vf-coef": "value-coefficient",
    "value-coef": "value-coefficient",
    "max-grad-norm": "max-gradient-norm",
    "grad-clip": "max-gradient-norm",
    "clip-range": "clip",
    "clip-coef": "clip",
    "batch-size": "minibatches",
    "minibatch-size": "minibatches",
    "num-minibatches": "minibatches",
    "n-epochs": "epochs",
    "update-epochs": "epochs",
    "n-envs": "num-envs",
    "n-steps": "rollout-steps",
    "num-steps": "rollout-steps",
    "total-timesteps": "steps",
    "timesteps": "steps",
    "logdir": "run",
    "log-dir": "run",
    "out-dir": "run",
    "output-dir": "run",
}
"""What other programs call a setting, and the last part of the flag that sets it here."""

INSIDE = {"--env": EnvOptions, "--policy-options": PolicyConfig}
"""Flags that take a mapping, and the settings that stand inside it."""

EXAMPLES = {"data_dir": "FOLDER", "download": True}
"""Values to show for options by which an environment finds data."""


def flags(options: Any, prefix: str = "") -> Iterator[str]:
    """Those that set the fields of a dataclass, `--ppo.clip` for one inside another."""
    hints = get_type_hints(type(options), include_extras=True)
    for part in fields(options):
        value, annotated = getattr(options, part.name), get_origin(hints[part.name]) is Annotated
        if is_dataclass(value):  # a nameless one, whose flags stand beside those around it, is annotated as such
            yield from flags(value, prefix if annotated else f"{prefix}{part.name}.")
        elif not _is_bare(hints[part.name]):
            yield f"--{prefix}{part.name}".replace("_", "-")


def as_flags(error: MissingDataError, known: Collection[str]) -> str:
    """How what would mend it is written on the command line; nothing for a command that sets no environment."""
    if "--env" not in known:
        return ""
    mappings = [json.dumps({name: EXAMPLES[name] for name in remedy}) for remedy in error.remedies]
    forms = [f"--env '{mapping}'" for mapping in mappings]
    return f" On the command line that is {' or '.join(forms)}."


def unknown_word(word: str, known: Collection[str]) -> str:
    """The sentence for a word that a command has no use for, with the flag of its own that may have been meant."""
    flag = word.partition("=")[0]
    meant = _meant(flag.replace("_", "-"), known)
    hint = f" Did you mean {meant}?" if meant else ""
    said = f"Unknown flag {flag}." if flag.startswith("-") else f"Nothing is expected where {word!r} stands."
    return f"{said}{hint}"


def _meant(flag: str, known: Collection[str]) -> str | None:
    """Under another name or at another place; else the flag that is spelt nearly like it."""
    name = _last(flag)
    for other in known:
        if _last(other) == ELSEWHERE.get(name, name):
            return other
    for holder, options in INSIDE.items():
        setting = name.replace("-", "_")
        if holder in known and setting in {part.name for part in fields(options)}:
            return f"{holder} '{{\"{setting}\": ...}}'"
    if name in ELSEWHERE:  # what it sets is not for this command to set, whatever is spelt like it
        return None
    return next(iter(difflib.get_close_matches(flag, known, n=1)), None)


def _last(flag: str) -> str:
    """The name behind the dashes and the dots."""
    return flag.lstrip("-").rpartition(".")[2]


def check_bare(kind: Any, words: Sequence[str], names: int) -> None:
    """Refuse the unknown flags of a command that takes something without a flag.

    tyro would count what follows them as theirs, and say that it is missing.

    Args:
        kind: the command's dataclass.
        words: all of the command line.
        names: how many of them, from the first on, name the command.

    Raises:
        ConfigError: with the command line that does without, where only the flag is too much.
    """
    hints = get_type_hints(kind, include_extras=True)
    bare = [part.name for part in fields(kind) if _is_bare(hints[part.name])]
    known = [f"--{part.name}".replace("_", "-") for part in fields(kind) if part.name not in bare]
    if not bare or {"-h", "--help"} & set(words):
        return
    for place, word in enumerate(words):
        flag = word.partition("=")[0]
        name = flag.removeprefix("--")
        if not name or name == flag or flag.replace("_", "-") in known:
            continue
        command = " ".join(("esper", *words[:names]))
        if name not in bare:
            raise ConfigError(f"{unknown_word(word, known)} To see what there is: {command} --help")
        mended = shlex.join(("esper", *words[:place], *_value(words[place:]), *words[place + 1 :]))
        raise ConfigError(f"{command} takes the {name} without a flag: {mended}")


def _value(words: Sequence[str]) -> Sequence[str]:
    """What is to stand in the place of a flag, the first of these words: nothing where its value follows."""
    flag, given, value = words[0].partition("=")
    if given:
        return [value]
    follows = len(words) > 1 and not words[1].startswith("-")
    return [] if follows else [flag.removeprefix("--").upper()]


def _is_bare(hint: Any) -> bool:
    return get_origin(hint) is Annotated and tyro.conf.Positional in get_args(hint)[1:]
