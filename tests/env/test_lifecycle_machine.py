"""The array lifecycle and the plain reference live the same lives."""

import copy
import dataclasses

import hypothesis.strategies as st
import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from esper_env.config import LifecycleConfig
from esper_env.lifecycle.state import Slots
from tests.env.lifecycle_reference import OPS, Pair, random_config, random_plantable

CONFIGS = st.builds(
    LifecycleConfig,
    max_seeds=st.integers(0, 4),
    strict_gates=st.booleans(),
    auto_advance=st.booleans(),
    embargo_epochs=st.integers(1, 6),
    min_prune_age=st.integers(1, 3),
    min_training_epochs=st.integers(1, 4),
    min_fossilize_contribution=st.sampled_from([-1.0, 0.0, 1.0]),
)
PLANTABLE = st.lists(st.booleans(), min_size=12, max_size=12).map(lambda rest: [False, *rest])
ANY = st.one_of(st.integers(0, 12), st.sampled_from([-1, -(2**40), 2**40, 5]))
REST = st.tuples(*(st.integers(0, n - 1) for n in (12, 4, 3, 3, 4, 5)))


def choose(pair: Pair, env: int, pick: int, rest: tuple[int, ...], ops: tuple[str, ...]) -> list[int]:
    """An action of one of `ops` that is legal in some slot, or WAIT."""
    reference = pair.references[env]
    pairs = [
        (s, OPS.index(op)) for op in ops for s in range(reference.num_slots) if op != "WAIT" and reference.legal(op, s)
    ]
    slot, op = pairs[pick % len(pairs)] if pairs else (0, 0)
    plantable = [i for i, possible in enumerate(reference.plantable) if possible]
    blueprint = plantable[rest[0] % len(plantable)] if plantable else 0
    return [slot, blueprint, *rest[1:], op]


class Lives(RuleBasedStateMachine):
    """Several environments at once, every one with actions of its own, in arrays and one by one."""

    @initialize(envs=st.integers(1, 4), num_slots=st.integers(1, 4), config=CONFIGS, plantable=PLANTABLE)
    def begin(self, envs: int, num_slots: int, config: LifecycleConfig, plantable: list[bool]) -> None:
        self.pair = Pair(envs, num_slots, config, plantable)
        self.pair.assert_same()

    def everywhere(self, data: st.DataObject, strategy: st.SearchStrategy) -> list:
        envs = len(self.pair.references)
        return data.draw(st.lists(strategy, min_size=envs, max_size=envs))

    @rule(data=st.data())
    def act_legally(self, data: st.DataObject) -> None:
        drawn = self.everywhere(data, st.tuples(st.integers(0, 20), REST))
        vectors = [choose(self.pair, e, pick, rest, tuple(OPS)) for e, (pick, rest) in enumerate(drawn)]
        assert all(self.pair.step(vectors))

    @rule(data=st.data(), times=st.integers(1, 4))
    def grow(self, data: st.DataObject, times: int) -> None:
        drawn = self.everywhere(data, st.tuples(st.integers(0, 20), REST))
        for _ in range(times):
            ops = ("GERMINATE", "ADVANCE")
            vectors = [choose(self.pair, e, pick, rest, ops) for e, (pick, rest) in enumerate(drawn)]
            assert all(self.pair.step(vectors))

    @rule(data=st.data())
    def act_anyhow(self, data: st.DataObject) -> None:
        """Whatever does not execute leaves the same state as WAIT does, whatever stands in its heads."""
        vectors = [list(v) for v in self.everywhere(data, st.tuples(*[ANY] * 8))]
        waiting = copy.deepcopy(self.pair.arrays)
        refused = ~np.array(self.pair.step(vectors))
        waiting.step(np.zeros((len(vectors), 8), np.int64))
        for f in dataclasses.fields(Slots):
            acted, waited = getattr(self.pair.arrays.slots, f.name), getattr(waiting.slots, f.name)
            np.testing.assert_array_equal(acted[refused], waited[refused], err_msg=f.name)

    @rule(times=st.integers(1, 8))
    def wait(self, times: int) -> None:
        for _ in range(times):
            self.pair.step([[0] * 8 for _ in self.pair.references])

    @rule(
        good=st.booleans(),
        health=st.sampled_from([None, 0.0, 0.69, 0.7, 1.0]),
        exploding=st.booleans(),
        measured=st.booleans(),
        contribution=st.sampled_from([-2.0, -1.0, 0.0, 0.99, 1.0, 5.0]),
        accuracy=st.sampled_from([0.0, 0.4, 0.5, 10.0, 50.0]),
    )
    def measure(
        self, good: bool, health: float | None, exploding: bool, measured: bool, contribution: float, accuracy: float
    ) -> None:
        for e, env in enumerate(self.pair.references):
            self.pair.set_accuracy(e, accuracy + e)
            for s in range(env.num_slots):
                if good:
                    self.pair.measure(e, s, 0.9, False, True, 3.0)
                else:
                    self.pair.measure(e, s, health, exploding, measured, contribution)
        self.pair.assert_same()


Lives.TestCase.settings = settings(
    max_examples=70,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestArraysAndReferenceLiveTheSameLives = Lives.TestCase

FAVOURITES = (
    tuple(OPS),
    ("GERMINATE", "ADVANCE"),
    ("GERMINATE", "ADVANCE", "FOSSILIZE"),
    ("GERMINATE", "ADVANCE", "SET_ALPHA_TARGET"),
    ("WAIT",),
)


def test_long_random_play_of_many_environments_is_what_the_reference_says() -> None:
    seen = set()
    for seed in range(16):
        seen |= play(np.random.default_rng(seed), auto_advance=seed % 4 == 3)
    wanted = {("GERMINATE", "DORMANT"), ("SET_ALPHA_TARGET", "BLENDING"), ("SET_ALPHA_TARGET", "HOLDING")}
    wanted |= {("PRUNE", stage) for stage in ("GERMINATED", "TRAINING", "BLENDING", "HOLDING")}
    wanted |= {("ADVANCE", stage) for stage in ("GERMINATED", "TRAINING", "BLENDING")}
    assert seen == wanted | {("FOSSILIZE", "HOLDING")}


def play(rng: np.random.Generator, auto_advance: bool) -> set[tuple[str, str]]:
    """Which op executed in which stage while six environments lived 120 epochs."""
    envs, num_slots = 6, int(rng.choice([1, 3, 5]))
    config, plantable = random_config(rng, num_slots), random_plantable(rng)
    config = dataclasses.replace(config, max_seeds=max(1, config.max_seeds), auto_advance=auto_advance)
    pair = Pair(envs, num_slots, config, plantable)
    sizes = np.array([num_slots, len(plantable), 4, 3, 3, 4, 5, 6])
    seen = set()
    for _ in range(120):
        vectors = []
        for e in range(envs):
            if rng.random() < 0.1:
                vectors.append(rng.integers(-1, sizes + 1).tolist())
            else:
                rest = tuple(rng.integers(0, [12, 4, 3, 3, 4, 5]).tolist())
                vectors.append(choose(pair, e, int(rng.integers(20)), rest, FAVOURITES[rng.integers(len(FAVOURITES))]))
        stages = [[slot.stage for slot in env.slots] for env in pair.references]
        executed = pair.step(vectors)
        seen |= {(OPS[v[7]], stages[e][v[0]]) for e, v in enumerate(vectors) if executed[e] and v[7] > 0}
        for e in range(envs):
            if rng.random() < 0.5:
                pair.set_accuracy(e, float(rng.choice([1.0, 1.4, 1.5, 20.0])))
            for s in range(num_slots):
                if rng.random() < 0.8:
                    pair.measure(e, s, 0.9, False, True, 2.0)
                else:
                    health = [None, 0.5, 0.7][rng.integers(3)]
                    pair.measure(e, s, health, bool(rng.integers(2)), bool(rng.integers(2)), float(rng.normal()))
    return seen
