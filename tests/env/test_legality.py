"""One predicate decides: what it allows executes, what it forbids changes nothing."""

import dataclasses

import numpy as np
import pytest

from esper_env.actions import Op, decode
from esper_env.config import LifecycleConfig
from esper_env.lifecycle import alpha as schedules
from esper_env.lifecycle.legality import legality, permitted
from esper_env.lifecycle.stages import Stage
from esper_env.lifecycle.state import Slots
from esper_env.lifecycle.transitions import apply_ops
from esper_env.masks import head_slices, masks
from esper_env.observation import encode
from tests.conftest import BRIEF, HASTY, random_actions, simulate
from tests.env.lifecycle_reference import (
    BLUEPRINT_NAMES,
    OPS,
    Arrays,
    random_config,
    random_plantable,
    random_states,
    read,
)


@pytest.mark.parametrize("seed", range(6))
def test_legality_of_random_states_is_what_the_plain_reading_of_the_rules_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(5):
        num_slots = int(rng.choice([1, 3, 5]))
        config, plantable = random_config(rng, num_slots), random_plantable(rng)
        slots, epoch, accuracy = random_states(rng, 80, num_slots)
        legal = legality(slots, epoch, accuracy, np.array(plantable), config)
        for env in range(80):
            plain = read(slots, epoch, accuracy, env, config, plantable)
            assert legal[env].tolist() == [[plain.legal(op, s) for s in range(num_slots)] for op in OPS]


@pytest.mark.parametrize("seed", range(4))
def test_every_unmasked_action_executes_and_every_masked_one_is_refused(seed: int) -> None:
    rng = np.random.default_rng(seed)
    envs, num_slots, blueprints = 500, 3, len(BLUEPRINT_NAMES)
    config = dataclasses.replace(random_config(rng, num_slots), max_seeds=seed)
    plantable = np.array(random_plantable(rng))
    slots, epoch, accuracy = random_states(rng, envs, num_slots)
    allowed = masks(legality(slots, epoch, accuracy, plantable, config), plantable)
    heads = {name: allowed.heads[:, span] for name, span in head_slices(num_slots, blueprints).items()}
    for op in Op:
        for slot in range(num_slots):
            for blueprint in range(blueprints):
                rest = rng.integers(0, [4, 3, 3, 4, 5], (envs, 5))
                fixed = [np.full((envs, 1), value) for value in (slot, blueprint, op)]
                vectors = np.concatenate([*fixed[:2], rest, fixed[2]], 1)
                unmasked = heads["op"][:, op] & (allowed.slot_by_op[:, op, slot] | (op == Op.WAIT))
                if op == Op.GERMINATE:
                    unmasked &= heads["blueprint"][:, blueprint]
                executed, after = execute(slots, epoch, accuracy, vectors, plantable, config)
                np.testing.assert_array_equal(executed, unmasked)
                assert_only_what_executed_happened(slots, after, epoch, vectors, executed)
        if op != Op.WAIT:
            usable = heads["op"][:, op]
            assert (heads["slot"] | ~allowed.slot_by_op[:, op])[usable].all(), "the slot head hides a legal slot"


def execute(
    slots: Slots, epoch: np.ndarray, accuracy: np.ndarray, vectors: np.ndarray, plantable: np.ndarray, config
) -> tuple[np.ndarray, Slots]:
    actions = decode(vectors, slots.stage.shape[1], len(plantable))
    legal = legality(slots, epoch, accuracy, plantable, config)
    executed = permitted(legal, actions.op, actions.slot, actions.blueprint, plantable) & actions.in_space
    after = slots.copy()
    apply_ops(after, epoch, accuracy, actions, executed)
    return executed, after


def assert_only_what_executed_happened(
    before: Slots, after: Slots, epoch: np.ndarray, vectors: np.ndarray, executed: np.ndarray
) -> None:
    op, slot = vectors[0, 7], vectors[0, 0]
    touched = np.zeros(before.stage.shape, bool)
    touched[:, slot] = executed & (op != Op.WAIT)
    for f in dataclasses.fields(Slots):
        np.testing.assert_array_equal(getattr(after, f.name)[~touched], getattr(before, f.name)[~touched], f.name)
    stage, seed = after.stage[touched], vectors[executed]
    if op == Op.GERMINATE:
        assert (stage == Stage.GERMINATED).all()
        np.testing.assert_array_equal(after.blueprint[touched], seed[:, 1])
        np.testing.assert_array_equal(after.plantings[touched], before.plantings[touched] + 1)
    elif op == Op.SET_ALPHA_TARGET:
        np.testing.assert_array_equal(after.target[touched], np.array([0.5, 0.7, 1.0])[seed[:, 4]])
        np.testing.assert_array_equal(after.algorithm[touched], np.array([0, 1, 0, 2])[seed[:, 2]])
    elif op == Op.PRUNE:
        assert ((stage == Stage.PRUNED) | schedules.pruning(after, epoch)[touched]).all()
    elif op == Op.FOSSILIZE:
        assert (stage == Stage.FOSSILIZED).all()
        assert (schedules.alpha(after, epoch)[touched] == 1).all()
    elif op == Op.ADVANCE:
        np.testing.assert_array_equal(stage, before.stage[touched] + 1)


JOINT = {
    Stage.DORMANT: {Op.WAIT, Op.GERMINATE},
    Stage.GERMINATED: {Op.WAIT, Op.PRUNE, Op.ADVANCE},
    Stage.TRAINING: {Op.WAIT, Op.PRUNE, Op.ADVANCE},
    Stage.BLENDING: {Op.WAIT, Op.SET_ALPHA_TARGET, Op.PRUNE, Op.ADVANCE},
    Stage.HOLDING: {Op.WAIT, Op.SET_ALPHA_TARGET, Op.PRUNE, Op.FOSSILIZE},
    Stage.FOSSILIZED: {Op.WAIT},
    Stage.PRUNED: {Op.WAIT},
    Stage.EMBARGOED: {Op.WAIT},
    Stage.RESETTING: {Op.WAIT},
}
PLANTABLE = np.array([False, True])


def ripe(stage: Stage) -> Slots:
    """A slot in `stage` with everything in place that any gate could ask for."""
    slots = Slots.dormant(1, 1)
    if stage != Stage.DORMANT:
        slots.stage[:], slots.age[:], slots.epochs_in_stage[:] = stage, 20, 20
        slots.gradient_health[:], slots.measured[:], slots.contribution[:] = 0.7, 19, 1.0
    if stage in (Stage.BLENDING, Stage.HOLDING, Stage.FOSSILIZED):
        schedules.rest(slots, np.ones((1, 1), bool), 1.0)
    return slots


def legal_ops(slots: Slots, accuracy: float = 0.5, epoch: int = 20, **options: object) -> set[Op]:
    config = LifecycleConfig(**options)
    legal = legality(slots, np.array([epoch]), np.array([accuracy]), PLANTABLE, config)
    return {op for op in Op if legal[0, op, 0]}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("stage", JOINT)
def test_the_joint_table_of_ops_and_stages(stage: Stage, strict: bool) -> None:
    assert legal_ops(ripe(stage), strict_gates=strict) == JOINT[stage]


@pytest.mark.parametrize("stage", JOINT)
def test_automatic_advance_forbids_only_advance(stage: Stage) -> None:
    assert legal_ops(ripe(stage), auto_advance=True) == JOINT[stage] - {Op.ADVANCE}


@pytest.mark.parametrize("stage", [Stage.BLENDING, Stage.HOLDING])
def test_only_waiting_is_legal_while_a_ramp_runs(stage: Stage) -> None:
    slots = ripe(stage)
    slots.start[:], slots.target[:], slots.steps[:], slots.begun[:] = 1.0, 0.0, 5, 18
    assert legal_ops(slots) == {Op.WAIT}


LIMITS = [
    (Stage.TRAINING, "epochs_in_stage", 3, 2, False, Op.ADVANCE),
    (Stage.TRAINING, "gradient_health", 0.7, 0.699, False, Op.ADVANCE),
    (Stage.TRAINING, "gradient_health", 1.0, np.nan, False, Op.ADVANCE),
    (Stage.TRAINING, "exploding", False, True, False, Op.ADVANCE),
    (Stage.TRAINING, "accuracy_at_entry", 0.0, 0.01, True, Op.ADVANCE),
    (Stage.BLENDING, "target", 1.0, 0.7, False, Op.ADVANCE),
    (Stage.BLENDING, "epochs_in_stage", 10, 9, True, Op.ADVANCE),
    (Stage.HOLDING, "measured", 0, -1, False, Op.FOSSILIZE),
    (Stage.HOLDING, "contribution", 1.0, 0.99, True, Op.FOSSILIZE),
    (Stage.HOLDING, "age", 1, 0, False, Op.PRUNE),
    (Stage.GERMINATED, "age", 1, 0, False, Op.PRUNE),
]


@pytest.mark.parametrize(("stage", "field", "enough", "short", "strict", "op"), LIMITS)
def test_every_gate_opens_exactly_at_its_limit(
    stage: Stage, field: str, enough: float, short: float, strict: bool, op: Op
) -> None:
    slots = ripe(stage)
    getattr(slots, field)[:] = enough
    assert op in legal_ops(slots, strict_gates=strict)
    getattr(slots, field)[:] = short
    assert op not in legal_ops(slots, strict_gates=strict)
    assert (op in legal_ops(slots)) is strict, "what only the strict gates ask for, the permissive ones let pass"


def test_fossils_count_towards_max_seeds_and_cooling_slots_do_not() -> None:
    slots = Slots.dormant(1, 4)
    slots.stage[0] = [Stage.FOSSILIZED, Stage.EMBARGOED, Stage.TRAINING, Stage.DORMANT]
    assert Op.GERMINATE not in germinating(slots, max_seeds=2)
    assert Op.GERMINATE in germinating(slots, max_seeds=3)


def germinating(slots: Slots, max_seeds: int) -> set[Op]:
    config = LifecycleConfig(max_seeds=max_seeds)
    legal = legality(slots, np.zeros(1, np.int64), np.zeros(1), PLANTABLE, config)
    return {op for op in Op if legal[0, op, 3]}


def test_nothing_can_be_planted_where_no_blueprint_suits() -> None:
    slots, none = Slots.dormant(1, 2), np.zeros(13, bool)
    legal = legality(slots, np.zeros(1, np.int64), np.zeros(1), none, LifecycleConfig())
    assert not legal[:, Op.GERMINATE].any()


def test_a_value_outside_the_space_is_refused_only_in_a_head_that_matters() -> None:
    life = Arrays(2, 1, LifecycleConfig(max_seeds=1), [False, True])
    executed, _ = life.step(np.array([[0, 1, 0, 0, 0, 99, -5, 1], [0, 1, 4, 0, 0, 0, 0, 1]]))
    assert executed.tolist() == [True, False]
    assert life.slots.stage.ravel().tolist() == [Stage.GERMINATED, Stage.DORMANT]


def test_the_array_that_the_next_step_decides_by_cannot_be_written_to() -> None:
    simulation = simulate(2, training=BRIEF)
    with pytest.raises(ValueError, match="read-only"):
        simulation.legality()[0, Op.FOSSILIZE, 0] = True


def test_what_a_simulation_says_is_what_its_arrays_say_after_resets_rollbacks_and_restored_states() -> None:
    diverging = BRIEF | {"host_lr": 30.0}
    simulation = simulate(3, max_epochs=100, lifecycle=HASTY, training=diverging)
    generators = [np.random.default_rng(env) for env in range(3)]
    rolled_back, state = 0, None
    for t in range(40):
        simulation.step(random_actions(simulation, generators))
        rolled_back += simulation.counters.rolled_back.sum()
        if t == 20:
            state = simulation.get_state()
        if t == 30:
            simulation.set_state(state)
        if t % 7 == 3:
            simulation.reset(np.arange(3) == t % 3, [t])
        slots, signals, config = simulation.slots, simulation.signals, simulation.config
        legal = legality(slots, signals.epoch, signals.accuracy, simulation.plantable, config.lifecycle)
        seen = encode(signals, slots, max_epochs=config.max_epochs, budget=simulation.budget)
        np.testing.assert_array_equal(simulation.alpha(), schedules.alpha(slots, signals.epoch))
        np.testing.assert_array_equal(simulation.legality(), legal)
        np.testing.assert_array_equal(simulation.features(), seen)
    assert rolled_back
