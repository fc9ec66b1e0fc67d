"""Configuration: frozen dataclasses, checked on the way in."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from esper_env.actions import HEAD_NAMES, action_heads
from esper_env.config import ConfigError, Options, check_flag, check_number, unknown_name


def _check_choice(name: str, value: object, allowed: Collection[str]) -> None:
    if value not in allowed:
        raise ConfigError(unknown_name(name, value, allowed))


def _check_heads(name: str, values: Mapping[str, float]) -> None:
    for head, value in values.items():
        _check_choice(f"head in {name}", head, HEAD_NAMES)
        check_number(f"{name}[{head!r}]", value, 0)


@dataclass(frozen=True)
class PolicyConfig(Options):
    """Shape and behaviour of a policy network."""

    width: int = 256
    """Units of the encoder and of the memory; 384 is a good width for five slots."""
    head_width: int = 128
    """Hidden units of each action head and of the critic."""
    blueprint_layers: int = 3
    """Linear layers of the blueprint head; from three on, the first of them is `width` wide."""
    memory: str = "lstm"
    """`lstm`, or `none`: a linear layer that sees the present observation only."""
    critic: str = "op"
    """`op`: Q(s, op), for the baselines `factored` and `q_op`; `state`: V(s), for the baseline `state`."""
    uniform_mixing: Mapping[str, float] = field(default_factory=dict)
    """Per head, the probability ε that every valid choice keeps: p' = (1 - nε)p + ε."""
    normalize_observations: bool = False
    """Standardise features with running statistics, updated once per rollout."""
    autocast: bool = False
    """Run the network in bfloat16; log-probabilities and values are float32 all the same."""
    python_lstm: bool = False
    """Use the LSTM written in Python, which `torch.compile` can trace; slower without it."""
    compile: bool = False
    """Compile the step that acts (never the training sequence); implies `python_lstm`."""

    def __post_init__(self) -> None:
        check_number("width", self.width, 1, whole=True)
        check_number("head_width", self.head_width, 1, whole=True)
        check_number("blueprint_layers", self.blueprint_layers, 2, whole=True)
        _check_choice("memory", self.memory, ("lstm", "none"))
        _check_choice("critic", self.critic, ("op", "state"))
        for name in ("normalize_observations", "autocast", "python_lstm", "compile"):
            check_flag(name, getattr(self, name))
        _check_heads("uniform_mixing", self.uniform_mixing)
        for head in action_heads():
            epsilon = self.uniform_mixing.get(head.name, 0.0)
            if epsilon * head.size >= 1:
                raise ConfigError(
                    f"uniform_mixing[{head.name!r}] must be below 1/{head.size}, which makes the head uniform; "
                    f"got {epsilon}."
                )
