"""Every use of randomness has a stream of its own, and what one use draws shifts no other."""

import numpy as np
import torch

from esper_env.actions import Op, Style
from esper_env.streams import Streams
from tests.conftest import BRIEF, HASTY, action, simulate, step


def first_draws(streams):
    """What every stream would draw first."""
    generators = {"order": streams.order, "sampling": streams.sampling, "host": streams.host(), "data": streams.data()}
    for slot in range(3):
        for count in range(1, 4):
            generators[f"seed {slot}.{count}"] = streams.planting(slot, count)
            generators[f"gate {slot}.{count}"] = streams.gate(slot, count)
    return {name: int(generator.integers(2**62)) for name, generator in generators.items()}


def test_no_two_streams_draw_alike_and_the_seed_alone_decides_what_they_draw():
    one, same, other = (first_draws(Streams.of(seed)) for seed in (7, 7, 8))
    assert one == same
    assert len({*one.values(), *other.values()}) == 2 * len(one)


def test_drawing_from_one_stream_leaves_the_others_where_they_were():
    streams = Streams.of(7)
    untouched = first_draws(Streams.of(7))
    for generator in (streams.host(), streams.data(), streams.planting(0, 1), streams.gate(0, 1)):
        generator.random(100)
    assert first_draws(streams) == untouched


def weights(simulation, slot, style):
    """Initial parameters of a seed and its gate, planted now in every host and pruned again."""
    step(simulation, action(Op.GERMINATE, slot, "conv_light", style))
    bank = simulation.population.stacks[0].banks[slot, "conv_light"]
    planted = [stack.value[: simulation.envs].clone() for stack in bank.stacks()]
    step(simulation, action(Op.PRUNE, slot))
    assert simulation.counters.executed.all()
    return planted


def test_every_planting_in_a_slot_has_weights_of_its_own_whatever_happened_elsewhere():
    busy, calm = (simulate(2, training=BRIEF, lifecycle=HASTY) for _ in range(2))
    gated = Style.GATED_GATE
    weights(busy, 0, gated)
    first, expected = weights(busy, 1, gated), weights(calm, 1, gated)
    for _ in range(3):
        step(busy)
    second = weights(busy, 1, gated)
    for seeds, theirs, later in zip(first, expected, second, strict=True):
        assert torch.equal(seeds, theirs)
        assert not torch.equal(seeds[0], seeds[1])
        assert not torch.equal(seeds[0], later[0])
        assert not torch.equal(seeds[1], later[1])
    assert np.array_equal(busy.slots.plantings[:, :2], [[1, 2]] * 2)
