"""What info counts and reports is what a plain count and the exported network say."""

import numpy as np
import torch

from esper_env.actions import Op, Style
from esper_env.info import report
from esper_env.lifecycle.stages import Stage
from tests.conftest import BRIEF, HASTY, action, simulate, step


def test_what_is_told_of_the_seeds_is_what_a_plain_count_finds():
    simulation, rng = simulate(12, training=BRIEF), np.random.default_rng(0)
    slots = simulation.slots
    slots.stage[:] = rng.integers(1, 10, slots.stage.shape)
    slots.contribution[:] = rng.choice([-2.0, 0.0, 3.0], slots.stage.shape)
    slots.shapley[:] = rng.normal(size=slots.stage.shape)
    slots.params[:] = rng.integers(0, 500, slots.stage.shape)
    told = report(simulation)
    for env in range(12):
        stages = [Stage(stage) for stage in slots.stage[env]]
        contributing = [s for s in range(3) if stages[s] == Stage.FOSSILIZED and slots.contribution[env, s] > 0]
        there = [Stage.GERMINATED <= stage <= Stage.FOSSILIZED for stage in stages]
        assert told["contributing_fossilized"][env] == len(contributing)
        assert told["seed_params"][env] == sum(slots.params[env].tolist())
        assert told["stage"][env].tolist() == stages
        assert told["shapley"][env].tolist() == [slots.shapley[env, s] if there[s] else 0 for s in range(3)]
    assert (told["host_params"] == 4 + 4 * 8 + 8 * 16 + 2 * (4 + 8 + 16) + 16 * 10 + 10).all()


def test_the_test_accuracy_is_that_of_the_committed_network_on_the_test_split():
    steps = (
        *(action(op, 0, "conv_light", Style.GATED_GATE) for op in (Op.GERMINATE, Op.ADVANCE, Op.ADVANCE)),
        *[action()] * 2,
        *(action(op, 0) for op in (Op.ADVANCE, Op.FOSSILIZE)),
        *(action(op, 2, "conv_heavy", Style.LINEAR_ADD) for op in (Op.GERMINATE, Op.ADVANCE, Op.ADVANCE)),
        *[action()] * 3,
    )
    simulation = simulate(2, max_epochs=len(steps), training=BRIEF, lifecycle=HASTY)
    for vector in steps:
        assert (simulation.counters.test_accuracy == -1).all()
        step(simulation, vector, action())
        assert simulation.counters.executed.all()
    assert simulation.slots.stage[0].tolist() == [Stage.FOSSILIZED, Stage.DORMANT, Stage.BLENDING]
    split = simulation.task.source.load(None).test
    images, labels = torch.from_numpy(split.inputs).permute(0, 3, 1, 2), torch.from_numpy(split.labels)
    for env in range(2):
        with torch.no_grad():
            right = (simulation.export_host(env)(images).argmax(1) == labels).sum().item()
        assert abs(simulation.counters.test_accuracy[env] * len(labels) / 100 - right) < 1.5
