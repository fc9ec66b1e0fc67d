"""Configuration of policies and of learning: frozen dataclasses, checked on the way in."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field

from esper_env.actions import HEAD_NAMES, action_heads
from esper_env.config import ConfigError, Options, check_flag, check_number, unknown_name


def _check_choice(name: str, value: object, allowed: Collection[str]) -> None:
    if value not in allowed:
        raise ConfigError(unknown_name(name, value, allowed))


def _check_mapping(name: str, values: object) -> None:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{name} must be a mapping from names, {{}} for none; got {values!r}.")


def _check_choices(name: str, values: Mapping[str, Mapping[str, float]]) -> None:
    _check_mapping(name, values)
    choices = {head.name: head.choices for head in action_heads() if head.name != "slot"}
    for head, logits in values.items():
        _check_choice(f"head in {name}", head, choices)
        _check_mapping(f"{name}[{head!r}]", logits)
        for choice, value in logits.items():
            _check_choice(f"choice in {name}[{head!r}]", choice, choices[head])
            check_number(f"{name}[{head!r}][{choice!r}]", value, -100, 100)


def _check_heads(name: str, values: Mapping[str, float]) -> None:
    _check_mapping(name, values)
    for head, value in values.items():
        _check_choice(f"head in {name}", head, HEAD_NAMES)
        check_number(f"{name}[{head!r}]", value, 0)


FIRST_BIAS: Mapping[str, Mapping[str, float]] = {
    "op": {"WAIT": -3.0, "SET_ALPHA_TARGET": -7.0, "PRUNE": -7.0},
    "alpha_target": {"HALF": -3.0, "SEVENTY": -3.0},
}
"""A beginner to whom all choices are alike hardly ever makes a seed permanent: it prunes as readily as it plants, and
blends most seeds to an alpha at which they can't become permanent. It would learn not to plant before it could have
learned what seeds are worth."""


def indexed(bias: Mapping[str, Mapping[str, float]]) -> Iterator[tuple[str, int, float]]:
    """Head, index of the choice in it and logit, for every choice that a `first_bias` names."""
    choices = {head.name: head.choices for head in action_heads()}
    for head, logits in bias.items():
        for choice, logit in logits.items():
            yield head, choices[head].index(choice), logit


@dataclass(frozen=True)
class PolicyConfig(Options):
    """Shape and behaviour of a policy network."""

    width: int = 256
    """Units of the encoder and of the memory; 384 is a good width for five slots."""
    head_width: int = 128
    """Hidden units of each action head and of the critic."""
    blueprint_layers: int = 3
    """Linear layers of the blueprint head; from three on, the first of them is `width` wide."""
    blueprint_by_slot: bool = True
    """Draw the blueprint for the slot it goes to, rather than beside it."""
    first_bias: Mapping[str, Mapping[str, float]] = field(default_factory=lambda: deepcopy(dict(FIRST_BIAS)))
    """Per head but `slot`, what is added to the logits of these choices in the beginning; all others start even."""
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
        super().__post_init__()
        check_number("width", self.width, 1, whole=True)
        check_number("head_width", self.head_width, 1, whole=True)
        check_number("blueprint_layers", self.blueprint_layers, 2, whole=True)
        _check_choice("memory", self.memory, ("lstm", "none"))
        _check_choice("critic", self.critic, ("op", "state"))
        for name in ("blueprint_by_slot", "normalize_observations", "autocast", "python_lstm", "compile"):
            check_flag(name, getattr(self, name))
        _check_choices("first_bias", self.first_bias)
        _check_heads("uniform_mixing", self.uniform_mixing)


ENTROPY_WEIGHTS = {
    "slot": 1.0,
    "blueprint": 8.0,
    "style": 1.2,
    "tempo": 1.5,
    "alpha_target": 1.2,
    "alpha_speed": 1.3,
    "alpha_curve": 1.3,
    "op": 1.0,
}
"""Per head, how much its entropy is worth. Blueprints are often nearly as good as each other, and one would soon be all
that is planted."""


@dataclass(frozen=True)
class PPOConfig(Options):
    """How a policy learns from rollouts."""

    gamma: float = 0.995
    """Discount; must equal the environment's, or its shaping no longer cancels."""
    gae_lambda: float = 1.0
    """λ of the λ-return: 0 relies on the critic, 1 on the rewards seen. Episodes are short and the critic's error is
    larger than the differences between blueprints, so the default is 1."""
    baseline: str | None = None
    """What returns are compared with: `factored` (the op with V(s), the rest with Q(s, op)), `q_op` or `state`.
    None follows the policy: `factored` where its critic judges ops, else `state`."""
    clip: float = 0.4
    """Each head's probability ratio earns nothing beyond 1 ± this."""
    head_average: str = "steps"
    """A head's loss is averaged over all steps (`steps`) or over those where it mattered (`relevant`)."""
    normalize_advantages: bool = True
    """Standardise the advantages of op, and those of the other heads, over the steps where they count."""
    entropy_coefficient: float = 0.02
    """Weight of the entropy bonus at the start, before the per-head weights."""
    entropy_decay: float | None = 16_000.0
    """Environment steps after which the entropy bonus is half of that; after n times as many it is 1/(1 + n).
    None keeps it constant. Exploration helps early in training and hurts later."""
    entropy_weights: Mapping[str, float] = field(default_factory=lambda: dict(ENTROPY_WEIGHTS))
    """Per-head factors of the entropy bonus; a head left out has none."""
    entropy_from: str = "beginner"
    """What the bonus draws heads to: the odds of a `beginner`, whose logits are `first_bias`, or `even` ones.
    By the former, what makes no difference is decided as a beginner would."""
    value_coefficient: float = 0.5
    """Weight of the critic's mean squared error."""
    value_clip: float | None = None
    """Distance from the value seen in the rollout beyond which the critic earns nothing; None for no clipping."""
    epochs: int = 4
    """Passes over each rollout."""
    minibatches: int = 8
    """Parts that a rollout is cut into, each of whole environments."""
    target_kl: float | None = 0.1
    """The update stops when the policy's KL from what it was at its beginning exceeds 1.5 times this.
    The KL is per step and summed over heads. None never stops."""
    learning_rate: float = 5e-4
    """Adam's learning rate at the start."""
    learning_rate_decay: float | None = 16_000.0
    """Environment steps after which the learning rate is half of that; after n times as many it is 1/(1 + n).
    None keeps it. It depends on what was seen, not on how long the run will be, so a run can always go on."""
    adam_epsilon: float = 1e-5
    """Adam's epsilon."""
    max_gradient_norm: float = 0.5
    """Gradient norm at which a step is clipped."""
    normalize_rewards: bool = True
    """Divide rewards by the running standard deviation of the discounted return."""
    reward_clip: float = 10.0
    """Normalised rewards are clipped to ± this."""
    max_bad_steps: int = 3
    """Steps in a row with a non-finite loss or gradient (each is skipped) that end the training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("gamma", "gae_lambda"):
            check_number(name, getattr(self, name), 0, 1)
        if self.baseline is not None:
            _check_choice("baseline", self.baseline, ("factored", "q_op", "state"))
        _check_choice("head_average", self.head_average, ("relevant", "steps"))
        _check_choice("entropy_from", self.entropy_from, ("beginner", "even"))
        for name in ("normalize_advantages", "normalize_rewards"):
            check_flag(name, getattr(self, name))
        for name in ("epochs", "minibatches", "max_bad_steps"):
            check_number(name, getattr(self, name), 1, whole=True)
        for name in ("clip", "entropy_coefficient", "value_coefficient", "learning_rate", "adam_epsilon"):
            check_number(name, getattr(self, name), 0)
        for name in ("max_gradient_norm", "reward_clip"):
            check_number(name, getattr(self, name), 1e-12)
        optional = {"value_clip": 0.0, "target_kl": 1e-12, "learning_rate_decay": 1.0, "entropy_decay": 1.0}
        for name, least in optional.items():
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), least)
        _check_heads("entropy_weights", self.entropy_weights)

    @property
    def critic(self) -> str | None:
        """The critic that the baseline needs, as `PolicyConfig.critic`; None where any will do."""
        return None if self.baseline is None else "state" if self.baseline == "state" else "op"
