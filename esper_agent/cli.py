"""The command line: from words to a command, and from what comes of it to an exit code."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import io
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import tyro

from esper_agent.arguments import registry, sentence
from esper_agent.commands import COMMANDS, Train
from esper_agent.exits import DONE, FAILURE, INTERRUPTED
from esper_agent.failures import cause, exit_code
from esper_agent.flags import as_flags, check_bare, flags, unknown_word
from esper_agent.runs import TrainConfig, load_config
from esper_env import __version__
from esper_env.config import ConfigError, MissingDataError, unknown_name


def _bench(args: Sequence[str]) -> Any:
    """The command `bench`: what it holds is part of the repository, not of the package, and read when it is asked for.

    Without it the command is still listed, and says where to find it.
    """
    if args[:1] == ["bench"]:
        try:
            known: Mapping[str, Any] = importlib.import_module("benchmarks.suite.commands").COMMANDS
        except ModuleNotFoundError as error:
            if error.name is None or not "benchmarks.suite.commands".startswith(error.name):
                raise
            raise ConfigError(
                "The benchmark suite is part of the repository: run esper bench with a checkout of it, installed by "
                "pip install --editable '.[bench]'."
            ) from error
        _check_command("command of esper bench", args[1:], known)
        if args[1:] and args[1] in known:
            check_bare(known[args[1]], args, names=2)
        commands: Any = Union[tuple(_described(kind, name, args[1:]) for name, kind in known.items())]  # noqa: UP007
    else:
        commands = Literal["run", "tune", "report", "validate", "status"]
    what = Annotated[commands, tyro.conf.arg(name=""), tyro.conf.OmitSubcommandPrefixes]
    return make_dataclass("Bench", [("what", what)], frozen=True, namespace={"__doc__": BENCH, "__call__": _called})


BENCH = """Run the benchmark suite.

Compare agents by the protocol, report, and validate what others hand in.

Examples:
  esper bench status
  esper bench run --agent schedule heuristic --minutes 30
"""


def _called(bench: Any) -> int:
    code: int = bench.what()
    return code


def run(args: Sequence[str]) -> int:
    """Run a command; the exit code: 0, 2 for bad usage or configuration, 130 when interrupted, 1 for all else."""
    debug = "--debug" in args or os.environ.get("ESPER_DEBUG") == "1"
    command: Callable[[], int] | None = None
    try:
        try:
            command = _parse([arg for arg in args if arg != "--debug"])
            return command()
        finally:  # now rather than when the process ends, where nobody could say what went wrong
            _flush()
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever reads, such as `head`, has seen enough
        _discard()
        return FAILURE
    except Exception as error:
        if debug:
            traceback.print_exc()
        told = as_flags(error, list(flags(command))) if isinstance(error, MissingDataError) else ""
        print(f"error: {cause(error)}{told}", file=sys.stderr)
        return exit_code(error)


def _flush() -> None:
    """Write out what was printed; what cannot be is not tried again."""
    try:
        if sys.stdout is not None:  # it is None where the shell has closed it
            sys.stdout.flush()
    except OSError:
        _discard()
        raise


def _discard() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parse(args: Sequence[str]) -> Callable[[], int]:
    if args[:1] == ["--version"]:
        return _tell_version
    if args[:1] == ["help"]:
        args = [*args[1:], "--help"]
    _check_command("command", args, ("train", *COMMANDS, "bench"))
    if args and args[0] in COMMANDS:
        check_bare(COMMANDS[args[0]], args, names=1)
    kinds = [
        _described(Train, "train", args, default=Train(_settings(args))),
        *(_described(kind, name, args) for name, kind in COMMANDS.items()),
        _described(_bench(args), "bench", args),
    ]
    commands: Any = Union[tuple(kinds)]  # noqa: UP007
    command: Callable[[], int]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            command, unknown = tyro.cli(
                commands,
                prog="esper",
                description=ABOUT,
                args=args,
                registry=registry(),
                return_unknown_args=True,
            )
    except SystemExit as end:
        if end.code:
            raise ConfigError(f"{sentence(said.getvalue())} {_where_to_look(args)}") from None
        raise
    if unknown:
        raise ConfigError(f"{unknown_word(unknown[0], list(flags(command)))} {_where_to_look(args)}")
    return command


def _tell_version() -> int:
    print(f"esper {__version__}")
    return DONE


def _where_to_look(args: Sequence[str]) -> str:
    names = [arg for arg in args[: 2 if args[:1] == ["bench"] else 1] if not arg.startswith("-")]
    return f"To see what there is: {' '.join(('esper', *names, '--help'))}"


ABOUT = """Grow neural networks while they train.

First steps, each with --help of its own:
  esper demo                        a few minutes of training, and its report
  esper play --advice heuristic     play an episode yourself
  esper doctor                      what is here, and what is missing

With --debug, anywhere, an error shows where it came from.

With --version, alone, it says which Esper this is.
"""


def _described(kind: Any, name: str, args: Sequence[str], **options: Any) -> Any:
    """A command whose help is its docstring; where it is one among others, the first line of that."""
    text = inspect.getdoc(kind) or ""
    text = text if name in args[:1] else text.partition("\n")[0]
    return Annotated[kind, tyro.conf.subcommand(name, description=text, **options)]


def _check_command(kind: str, args: Sequence[str], known: Iterable[str]) -> None:
    if args and not args[0].startswith("-") and args[0] not in known:
        raise ConfigError(unknown_name(kind, args[0], known))


def _settings(args: Sequence[str]) -> TrainConfig:
    """Where the flags of `train` start from: the defaults, or what a run that is continued began with."""
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    peek.add_argument("--resume", action="store_true")
    peek.add_argument("--run", nargs="?", default=TrainConfig.run, const=None)
    try:
        known, _ = peek.parse_known_args(args[1:])
    except argparse.ArgumentError:  # of which tyro will tell
        return TrainConfig()
    resuming = args[:1] == ["train"] and known.resume and known.run and not {"-h", "--help"} & set(args)
    return load_config(Path(known.run)) if resuming else TrainConfig()
