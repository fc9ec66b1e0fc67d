"""Policies by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import torch
from tensordict.nn import TensorDictModuleBase

from esper_agent.config import PolicyConfig
from esper_agent.policies.actor_critic import ActorCritic
from esper_agent.policies.baselines import BASELINES
from esper_agent.policies.distribution import ActionLayout
from esper_agent.policies.networks import PolicyNetwork, initialise
from esper_agent.spec import EnvSpec
from esper_env.config import ConfigError, unknown_name

PolicyFactory = Callable[..., TensorDictModuleBase]
"""Called as `factory(spec, generator=..., **options)`; builds a policy on the CPU."""

_FACTORIES: dict[str, PolicyFactory] = {}


def register_policy(name: str, factory: PolicyFactory) -> None:
    """Make a policy available to `create_policy` and to the command line under `name`.

    A policy is a TensorDict module that reads the observation and writes at least `action`. One that learns is an
    `ActorCritic` around a network of your own:

        def build(spec, *, generator, **options):
            layout = ActionLayout(spec.num_slots, spec.num_blueprints)
            return ActorCritic(layout, MyNetwork(spec, **options))

        register_policy("mine", build)
    """
    if name in _FACTORIES:
        raise ConfigError(f"a policy named {name!r} is already registered.")
    _FACTORIES[name] = factory


def policy_names() -> tuple[str, ...]:
    """Names of all registered policies."""
    return tuple(_FACTORIES)


def create_policy(
    name: str, env: Any, *, device: str | torch.device = "cpu", seed: int | None = None, **options: Any
) -> TensorDictModuleBase:
    """Build a policy for an environment.

    Args:
        name: one of `policy_names()`; `lstm`, `lstm-v1` (the ablation baseline) and `mlp` learn, the others are
            what they have to beat. As in `gymnasium.make`, `"my_module:mine"` imports `my_module` first, which
            registers the policy; so it works from the command line and when a run is loaded.
        env: a Gymnasium environment, single or vector, or its `EnvSpec`.
        device: where the policy shall live.
        seed: of the initial weights and of the actions drawn; fresh entropy when None.
        options: what the policy lets you choose; for those that learn, the fields of `PolicyConfig`.
    """
    module, _, name = name.rpartition(":")
    if module:
        _import(module)
    if name not in _FACTORIES:
        raise ConfigError(unknown_name("policy", name, _FACTORIES))
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    policy = _FACTORIES[name](EnvSpec.of(env), generator=generator, **options).to(device)
    if isinstance(policy, ActorCritic):
        policy.seed(int(torch.randint(2**62, (), generator=generator)))
    return policy


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ConfigError(
            f"There is no module {module!r} to register a policy: Python looks in the folders of PYTHONPATH, and the "
            "command esper in the current one as well."
        ) from error


def network_policy(preset: PolicyConfig, kind: type[PolicyNetwork] = PolicyNetwork) -> PolicyFactory:
    """The factory of an agent around a network of this kind, whose options replace those of the preset."""

    def build(spec: EnvSpec, *, generator: torch.Generator, **options: Any) -> ActorCritic:
        for option in options:
            if option not in asdict(preset):
                raise ConfigError(unknown_name("policy option", option, asdict(preset)))
        config = replace(preset, **options)
        layout = ActionLayout(spec.num_slots, spec.num_blueprints, config.uniform_mixing, config.first_bias)
        # Layers draw weights from the global stream when they are built: put that stream back as it was.
        with torch.random.fork_rng(devices=[]):
            network = kind(spec, config)
        initialise(network, generator)
        if config.compile:
            network.compile(fullgraph=True)
        return ActorCritic(layout, network, autocast=config.autocast)

    return build


PRESETS = {
    "lstm": PolicyConfig(),
    "lstm-v1": PolicyConfig(width=128, head_width=64, blueprint_layers=2, blueprint_by_slot=False, critic="state"),
    "mlp": PolicyConfig(memory="none"),
}
"""The policies that learn: one network in three shapes."""

for _name, _preset in PRESETS.items():
    register_policy(_name, network_policy(_preset))
for _name, _baseline in BASELINES.items():
    register_policy(_name, _baseline)
