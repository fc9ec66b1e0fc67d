"""info["flops"] against formulas written out here, and against torch's own counter."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from esper_env.actions import CNN, Op
from esper_env.env import SeedEnv
from esper_env.network.blueprints import IMPLEMENTATIONS
from tests.conftest import action

SAMPLES, VALIDATED = 64, 96
OPTIONS = {"training": {"batches_per_epoch": 1, "val_samples": VALIDATED}, "max_epochs": 8}
DIGITS_CONVOLUTIONS = (64 * 4 * 1, 16 * 8 * 4, 4 * 16 * 8)
"""Multiply-accumulates of the host of `digits`: positions × outputs × inputs of its 1×1 convolutions."""
DIGITS_LINEAR = 16 * 10
DIGITS = sum(DIGITS_CONVOLUTIONS) + DIGITS_LINEAR


def counted(call):
    """Floating-point operations that torch counts in a call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def test_a_waiting_epoch_costs_three_forward_passes_of_training_and_one_of_validation():
    env = SeedEnv(task="digits", **OPTIONS)
    _, info = env.reset(seed=1)
    assert info["flops"] == 2 * DIGITS * VALIDATED
    info = env.step(action())[4]
    assert info["flops"] == 2 * DIGITS * VALIDATED * 2 + 6 * DIGITS * SAMPLES


@pytest.mark.parametrize("name", sorted({name for name, topology in IMPLEMENTATIONS if topology == CNN}))
@pytest.mark.parametrize("channels", [4, 16])
def test_a_blueprint_costs_what_torch_counts_in_its_forward_pass(name, channels):
    blueprint, batch, side = IMPLEMENTATIONS[name, CNN], 16, 4
    parameters = {k: torch.from_numpy(v)[None] for k, v in blueprint.init(channels, np.random.default_rng(0)).items()}
    maps = torch.randn(batch, channels, side, side).contiguous(memory_format=torch.channels_last)
    assert 2 * blueprint.macs(channels, side * side) * batch == counted(lambda: blueprint.delta(parameters, maps))


@pytest.mark.parametrize(
    ("name", "macs"),
    [
        ("norm", 0),
        ("attention", 2 * 16 * 4),
        ("conv_small", 16 * 16 * 64),
        ("conv_light", 9 * 16 * 16 * 64),
        ("conv_heavy", 2 * 9 * 16 * 16 * 64),
        ("depthwise", (9 * 16 + 16 * 16) * 64),
        ("bottleneck", (2 * 16 * 8 + 9 * 8 * 8) * 64),
    ],
)
def test_a_blueprint_costs_what_the_formulas_say(name, macs):
    assert IMPLEMENTATIONS[name, CNN].macs(16, 64) == macs


@pytest.mark.parametrize("task", ["digits", "digits_capable", "digits_deep", "shapes"])
def test_a_host_costs_what_torch_counts_in_its_forward_pass(task):
    env = SeedEnv(task=task, **OPTIONS)
    _, info = env.reset(seed=1)
    host = env.unwrapped.export_host()
    images = torch.randn(VALIDATED, 1, *[16 if task == "shapes" else 8] * 2)
    assert info["flops"] == counted(lambda: host(images))


def test_training_costs_what_torch_counts_but_for_gradients_that_nobody_needs():
    """Three forward passes is the custom; the first convolution needs no gradient for the images."""
    env = SeedEnv(task="digits", **OPTIONS)
    env.reset(seed=1)
    before = env.step(action())[4]["flops"]
    seen = counted(lambda: env.step(action()))
    spent = env.step(action())[4]["flops"] - before
    assert spent / 2 == seen + 2 * DIGITS_CONVOLUTIONS[0] * SAMPLES


def test_seeds_in_training_and_their_coalitions_are_counted():
    env = SeedEnv(task="digits", lifecycle={"min_training_epochs": 1}, **OPTIONS)
    env.reset(seed=1)
    seed = 9 * 4 * 4 * 64
    told = [env.step(action(op, 0, "conv_light"))[4]["flops"] for op in (Op.GERMINATE, Op.ADVANCE, Op.ADVANCE)]
    germinated, training, blending = np.diff([2 * DIGITS * VALIDATED, *told])
    assert germinated == 6 * DIGITS * SAMPLES + 2 * DIGITS * VALIDATED
    assert training == germinated + 6 * seed * SAMPLES
    # Blending, the network is validated with the seed and without it; what lies before the slot is shared.
    branched = 2 * (2 * DIGITS - DIGITS_CONVOLUTIONS[0] + seed) * VALIDATED
    assert blending == 6 * (DIGITS + seed) * SAMPLES + branched
