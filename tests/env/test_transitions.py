"""What ops and the clock do to the slots."""

import dataclasses

import numpy as np
import pytest

from esper_env.actions import Op
from esper_env.config import LifecycleConfig
from esper_env.lifecycle import alpha as schedules
from esper_env.lifecycle.stages import LEGAL_TRANSITIONS, LIVE, PRESENT, Stage
from esper_env.lifecycle.state import Slots
from esper_env.lifecycle.transitions import prune
from tests.env.lifecycle_reference import TRANSITIONS, Arrays, random_config, random_plantable, random_states

PLANTABLE = [False, True]
WAIT = np.zeros((1, 8), np.int64)
SPEEDS = {"INSTANT": 0, "FAST": 1, "MEDIUM": 2, "SLOW": 3}


def vector(op: Op, slot: int = 0, tempo: int = 0, target: int = 2, speed: int = 0, style: int = 0) -> np.ndarray:
    return np.array([[slot, 1, style, tempo, target, speed, 0, op]])


def act(life: Arrays, *args, **heads) -> None:
    executed, _ = life.step(vector(*args, **heads))
    assert executed.all(), (args, heads, life.slots.stage)


def grown(stage: Stage, **options: object) -> Arrays:
    """One environment with one slot, whose seed has just come to `stage` and rests there."""
    life = Arrays(1, 1, LifecycleConfig(max_seeds=1, min_training_epochs=1, **options), PLANTABLE)
    act(life, Op.GERMINATE)
    for _ in range(stage - Stage.GERMINATED):
        life.slots.gradient_health[:], life.slots.measured[:] = 1.0, 1
        while not life.legal()[0, Op.ADVANCE, 0]:
            life.step(WAIT)
        act(life, Op.ADVANCE)
    while schedules.running(life.slots, life.epoch).any():
        life.step(WAIT)
    life.slots.measured[:] = 1
    assert life.slots.stage.item() == stage
    return life


def play(rng: np.random.Generator, life: Arrays, steps: int):
    """Random play, mostly legal; yields the slots before every step, what executed and what happened."""
    envs, num_slots = life.slots.stage.shape
    for _ in range(steps):
        vectors = rng.integers(0, [num_slots, len(life.plantable), 4, 3, 3, 4, 5, 6], (envs, 8))
        legal = life.legal() & (rng.random((envs, 6, num_slots)) < [[0.3], [1.0], [0.4], [0.15], [1.0], [1.0]])
        legal[:, Op.WAIT, 1:] = False
        score = np.where(legal, rng.random(legal.shape), -1).reshape(envs, -1)
        wish = score.argmax(1)
        follow = rng.random(envs) < 0.9
        vectors[follow, 7], vectors[follow, 0] = (wish // num_slots)[follow], (wish % num_slots)[follow]
        before = life.slots.copy()
        executed, events = life.step(vectors)
        yield before, executed, events
        present = PRESENT[life.slots.stage]
        shape = present.shape
        life.slots.gradient_health[present] = rng.choice([0.5, 0.9, 1.0, np.nan], shape)[present]
        life.slots.measured[present] = rng.choice([-1, 1, 1], shape)[present]
        life.slots.contribution[present] = rng.normal(1, 1, shape)[present]
        life.accuracy = np.clip(life.accuracy + rng.normal(0.3, 1, envs), 0, 100)


def test_the_table_of_legal_transitions_is_the_one_of_the_domain() -> None:
    table = {stage.name: {to.name for to in targets} for stage, targets in LEGAL_TRANSITIONS.items()}
    assert table.pop("UNKNOWN") == set()
    assert table == TRANSITIONS


@pytest.mark.parametrize("auto_advance", [False, True])
def test_in_one_step_a_slot_moves_along_one_legal_edge_or_not_at_all(auto_advance: bool) -> None:
    walked = set()
    for seed in range(6):
        rng = np.random.default_rng(seed)
        config = dataclasses.replace(random_config(rng, 3), max_seeds=3, auto_advance=auto_advance)
        life = Arrays(40, 3, config, random_plantable(rng))
        for before, _, _ in play(rng, life, 150):
            moved = before.stage != life.slots.stage
            walked |= set(zip(before.stage[moved].tolist(), life.slots.stage[moved].tolist(), strict=True))
    assert walked == {(stage, to) for stage, targets in LEGAL_TRANSITIONS.items() for to in targets}


def test_every_clock_advances_exactly_once_per_step() -> None:
    rng = np.random.default_rng(5)
    life = Arrays(60, 3, LifecycleConfig(), random_plantable(rng))
    for before, _, events in play(rng, life, 200):
        now = life.slots
        entered = (now.stage != before.stage) & (now.stage != Stage.DORMANT)
        stayed = (now.stage == before.stage) & (now.stage != Stage.DORMANT)
        assert (now.epochs_in_stage[entered] == 1).all()
        np.testing.assert_array_equal(now.epochs_in_stage[stayed], before.epochs_in_stage[stayed] + 1)
        planted = events.germinated
        assert (now.age[planted] == 1).all()
        alive = PRESENT[now.stage] & ~planted
        np.testing.assert_array_equal(now.age[alive], before.age[alive] + 1)
        frozen = ~PRESENT[now.stage] & (now.stage != Stage.DORMANT)
        np.testing.assert_array_equal(now.age[frozen], before.age[frozen])
        empty = now.stage == Stage.DORMANT
        assert not now.age[empty].any()
        assert not now.epochs_in_stage[empty].any()


def test_events_name_exactly_what_happened() -> None:
    rng = np.random.default_rng(6)
    life = Arrays(60, 3, LifecycleConfig(), random_plantable(rng))
    for before, _, events in play(rng, life, 200):
        now = life.slots
        changed = now.stage != before.stage
        np.testing.assert_array_equal(events.germinated, changed & (now.stage == Stage.GERMINATED))
        np.testing.assert_array_equal(events.fossilized, changed & (now.stage == Stage.FOSSILIZED))
        np.testing.assert_array_equal(events.pruned, changed & (now.stage == Stage.PRUNED))
        np.testing.assert_array_equal(
            events.switched, (now.algorithm != before.algorithm) & ~events.germinated & (now.stage != Stage.DORMANT)
        )


def test_the_plantings_of_a_slot_only_ever_grow_and_by_one_for_each_seed() -> None:
    rng = np.random.default_rng(7)
    life = Arrays(40, 2, LifecycleConfig(embargo_epochs=1), random_plantable(rng))
    for before, _, events in play(rng, life, 200):
        np.testing.assert_array_equal(life.slots.plantings, before.plantings + events.germinated)
    assert life.slots.plantings.max() > 3


def cooldown(life: Arrays, limit: int = 60) -> list[Stage]:
    """Stages seen from PRUNED to DORMANT while the agent asks for GERMINATE in every step."""
    for _ in range(limit):
        if life.slots.stage.item() == Stage.PRUNED:
            break
        life.step(WAIT)
    seen = []
    while life.slots.stage.item() != Stage.GERMINATED:
        seen.append(Stage(life.slots.stage.item()))
        assert life.slots.epochs_in_stage.item() == (seen.count(seen[-1]) if seen[-1] != Stage.DORMANT else 0)
        life.step(vector(Op.GERMINATE))
        assert len(seen) < limit
    return seen


WAYS = [
    (Stage.GERMINATED, "INSTANT"),
    (Stage.GERMINATED, "SLOW"),
    (Stage.TRAINING, "INSTANT"),
    (Stage.TRAINING, "FAST"),
    (Stage.BLENDING, "INSTANT"),
    (Stage.BLENDING, "FAST"),
    (Stage.BLENDING, "SLOW"),
    (Stage.HOLDING, "INSTANT"),
    (Stage.HOLDING, "FAST"),
    (Stage.HOLDING, "MEDIUM"),
]


@pytest.mark.parametrize("embargo", [1, 2, 5, 9])
@pytest.mark.parametrize(("stage", "speed"), WAYS)
def test_an_embargo_lasts_as_long_as_configured_however_the_seed_was_pruned(
    stage: Stage, speed: str, embargo: int
) -> None:
    life = grown(stage, embargo_epochs=embargo)
    act(life, Op.PRUNE, speed=SPEEDS[speed])
    expected = [Stage.PRUNED, *[Stage.EMBARGOED] * embargo, Stage.RESETTING, Stage.DORMANT]
    assert cooldown(life) == expected


@pytest.mark.parametrize("stage", [Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING, Stage.HOLDING])
def test_a_prune_after_the_tick_gives_the_same_embargo(stage: Stage) -> None:
    life = grown(stage)
    life.step(WAIT)
    prune(life.slots, LIVE[life.slots.stage], life.accuracy, clock=1)
    assert cooldown(life) == [Stage.PRUNED, *[Stage.EMBARGOED] * 5, Stage.RESETTING, Stage.DORMANT]


def test_by_default_the_slot_of_a_seed_pruned_in_step_t_is_planted_again_in_step_t_plus_8_at_the_earliest() -> None:
    life = grown(Stage.TRAINING)
    act(life, Op.PRUNE)
    executed = [life.step(vector(Op.GERMINATE))[0].item() for _ in range(8)]
    assert executed == [False] * 7 + [True]


@pytest.mark.parametrize("embargo", [1, 5])
def test_slots_in_cooldown_do_not_disturb_one_another(embargo: int) -> None:
    rng = np.random.default_rng(8)
    life = Arrays(50, 4, LifecycleConfig(max_seeds=4, embargo_epochs=embargo), random_plantable(rng))
    since = np.full((50, 4), -1)
    for _before, _, _ in play(rng, life, 250):
        stage = life.slots.stage
        cooling = since >= 0
        since[cooling] += 1
        since[stage == Stage.PRUNED] = 0
        for wait in range(1, embargo + 1):
            assert (stage[since == wait] == Stage.EMBARGOED).all()
        assert (stage[since == embargo + 1] == Stage.RESETTING).all()
        assert (stage[since == embargo + 2] == Stage.DORMANT).all()
        since[since == embargo + 2] = -1


@pytest.mark.parametrize("stage", [Stage.BLENDING, Stage.HOLDING])
@pytest.mark.parametrize(("speed", "epochs"), [("FAST", 3), ("MEDIUM", 5), ("SLOW", 8)])
def test_a_ramped_prune_goes_down_over_its_epochs_and_removes_the_seed_on_arrival(
    stage: Stage, speed: str, epochs: int
) -> None:
    life = grown(stage)
    act(life, Op.PRUNE, speed=SPEEDS[speed])
    path = [life.alpha().item()]
    age = life.slots.age.item()
    while life.slots.stage.item() != Stage.PRUNED:
        assert life.slots.stage.item() == stage
        assert schedules.pruning(life.slots, life.epoch).item()
        assert life.legal()[0, :, 0].tolist() == [True] + [False] * 5
        life.step(WAIT)
        path.append(life.alpha().item())
    np.testing.assert_allclose(path, [1 - k / epochs for k in range(1, epochs + 1)], atol=1e-12)
    assert path[-1] == 0
    assert life.slots.age.item() == age + epochs - 2, "the epoch of the arrival is not lived any more"


def test_what_was_measured_stays_readable_until_the_slot_is_dormant() -> None:
    life = grown(Stage.HOLDING)
    life.slots.contribution[:], life.slots.gradient_norm[:] = 3.5, 0.25
    act(life, Op.PRUNE)
    while life.slots.stage.item() != Stage.DORMANT:
        seen = life.slots
        assert (seen.blueprint.item(), seen.contribution.item(), seen.gradient_norm.item()) == (1, 3.5, 0.25)
        assert (life.alpha().item(), seen.target.item(), seen.params.item()) == (0, 0, 0)
        life.step(WAIT)
    fresh = Slots.dormant(1, 1)
    fresh.plantings[:] = 1
    for f in dataclasses.fields(Slots):
        np.testing.assert_array_equal(getattr(life.slots, f.name), getattr(fresh, f.name), f.name)


def test_clearing_keeps_only_the_plantings_and_touches_no_other_slot() -> None:
    slots, _, _ = random_states(np.random.default_rng(0), 30, 3)
    slots.plantings[:] = np.arange(90).reshape(30, 3)
    before, fresh = slots.copy(), Slots.dormant(30, 3)
    mask = np.random.default_rng(1).random((30, 3)) < 0.5
    slots.clear(mask)
    for f in dataclasses.fields(Slots):
        old, new, blank = (getattr(each, f.name) for each in (before, slots, fresh))
        expected = old if f.name == "plantings" else np.where(mask, blank, old)
        np.testing.assert_array_equal(new, expected, f.name)
        assert new.dtype == blank.dtype, f.name


def test_fossilizing_fixes_alpha_at_1_for_ever() -> None:
    life = grown(Stage.HOLDING)
    act(life, Op.FOSSILIZE)
    for _ in range(20):
        assert life.slots.stage.item() == Stage.FOSSILIZED
        assert (life.alpha().item(), life.slots.target.item()) == (1, 1)
        assert schedules.mode(life.slots, life.epoch).item() == schedules.HOLD
        assert life.legal()[0, :, 0].tolist() == [True] + [False] * 5
        life.step(vector(Op.PRUNE))


def test_fossilizing_and_pruning_are_sound_even_at_an_alpha_that_play_never_rests_at() -> None:
    life = grown(Stage.HOLDING)
    schedules.rest(life.slots, np.ones((1, 1), bool), 0.7)
    act(life, Op.FOSSILIZE)
    assert life.alpha().item() == 1

    life = grown(Stage.BLENDING)
    schedules.rest(life.slots, np.ones((1, 1), bool), 0.0)
    _, events = life.step(vector(Op.PRUNE, speed=SPEEDS["SLOW"]))
    assert events.pruned.item()


def test_lowering_alpha_takes_a_holding_seed_back_to_blending_and_full_alpha_lets_it_hold_again() -> None:
    life = grown(Stage.HOLDING)
    act(life, Op.SET_ALPHA_TARGET, target=0, speed=SPEEDS["FAST"])
    assert life.slots.stage.item() == Stage.BLENDING
    assert life.slots.epochs_in_stage.item() == 1
    assert 0.5 < life.alpha().item() < 1
    life.step(WAIT)
    life.step(WAIT)
    assert life.alpha().item() == 0.5
    assert not life.legal()[0, Op.ADVANCE, 0], "held only at full alpha"
    act(life, Op.SET_ALPHA_TARGET, target=2, speed=SPEEDS["INSTANT"])
    assert life.alpha().item() == 1
    assert schedules.mode(life.slots, life.epoch).item() == schedules.STEP
    act(life, Op.ADVANCE)
    assert life.slots.stage.item() == Stage.HOLDING
    assert schedules.mode(life.slots, life.epoch).item() == schedules.HOLD


@pytest.mark.parametrize("style", range(4))
def test_a_retarget_to_the_present_alpha_may_still_switch_the_algorithm(style: int) -> None:
    life = grown(Stage.HOLDING)
    _, events = life.step(vector(Op.SET_ALPHA_TARGET, target=2, speed=SPEEDS["SLOW"], style=style))
    assert life.slots.stage.item() == Stage.HOLDING
    assert life.slots.algorithm.item() == [0, 1, 0, 2][style]
    assert events.switched.item() is (style in (1, 3))
    assert schedules.mode(life.slots, life.epoch).item() == schedules.HOLD


def test_automatic_advance_moves_every_seed_at_the_earliest_legal_moment_but_never_fossilizes() -> None:
    life = Arrays(1, 2, LifecycleConfig(max_seeds=2, min_training_epochs=3, auto_advance=True), PLANTABLE)
    act(life, Op.GERMINATE, slot=0)
    seen = []
    for step in range(20):
        life.slots.gradient_health[:], life.slots.measured[:] = 1.0, 1
        if step == 3:
            act(life, Op.GERMINATE, slot=1)
        else:
            life.step(WAIT)
        seen.append([Stage(s) for s in life.slots.stage[0]])
    G, T, B, H = Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING, Stage.HOLDING
    assert [s for s, _ in seen] == [T] * 3 + [B] * 3 + [H] * 14
    assert [s for _, s in seen] == [Stage.DORMANT] * 3 + [G] + [T] * 3 + [B] * 3 + [H] * 10


def test_automatic_advance_yields_to_what_the_agent_does_with_the_seed() -> None:
    life = Arrays(1, 1, LifecycleConfig(max_seeds=1, auto_advance=True), PLANTABLE)
    act(life, Op.GERMINATE)
    act(life, Op.PRUNE)
    assert life.slots.stage.item() == Stage.PRUNED


def test_an_action_touches_only_its_own_environment() -> None:
    life = Arrays(3, 2, LifecycleConfig(), PLANTABLE)
    vectors = np.concatenate([vector(Op.GERMINATE, slot=1), WAIT, vector(Op.GERMINATE, slot=0)])
    life.step(vectors)
    D, G = Stage.DORMANT, Stage.GERMINATED
    assert life.slots.stage.tolist() == [[D, G], [D, D], [G, D]]
