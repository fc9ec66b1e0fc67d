import math

import numpy as np
import pytest

from esper_env.config import RewardConfig
from esper_env.scaffolding import Ledger, settle

PAYING = RewardConfig(hindsight=0.1)
SLOTS, EPOCHS = 3, 30


def random_episode(seed):
    """Per step: who fossilized, who was emptied, the committed score, the measurement, and whether there was one."""
    rng = np.random.default_rng(seed)
    committed, best = 20.0, []
    for _ in range(EPOCHS):
        fossilized, emptied = np.zeros(SLOTS, bool), np.zeros(SLOTS, bool)
        chance = rng.random()
        if chance < 0.3:
            fossilized[rng.integers(SLOTS)] = True
            committed += rng.normal(0.5, 2)
        elif chance < 0.4:
            emptied[:] = rng.random(SLOTS) < 0.5
        half = np.triu(rng.normal(0, 20, (SLOTS, SLOTS)), 1)
        best.append((fossilized, emptied, committed, half + half.T, rng.normal(1, 5, SLOTS), rng.random() < 0.8))
    return best


def step(ledger, moment, config):
    fossilized, emptied, committed, interaction, shapley, measured = (np.array([x]) for x in moment)
    return settle(
        ledger,
        fossilized=fossilized,
        emptied=emptied,
        committed=committed,
        interaction=interaction,
        shapley=shapley,
        measured=measured,
        config=config,
    )


@pytest.mark.parametrize("seed", range(40))
def test_a_payment_is_the_formula_summed_over_the_epochs_since_the_slot_was_last_empty_or_paid(seed):
    config = RewardConfig(gamma=0.9, hindsight=0.1)
    episode = random_episode(seed)
    ledger = Ledger.start(np.array([20.0]), SLOTS)
    for now, moment in enumerate(episode):
        fossilized, committed = moment[0], moment[2]
        want = 0.0
        for b in range(SLOTS):
            if not fossilized[b]:
                continue
            spent = [e for e in range(now) if episode[e][0][b] or episode[e][1][b]]
            emptied_last = bool(spent) and bool(episode[spent[-1]][1][b])
            first = spent[-1] + (1 if emptied_last else 0) if spent else 0
            credit = 0.0
            for e in range(first, now):
                _, _, _, interaction, shapley, measured = episode[e]
                for j in range(SLOTS):
                    if measured and j != b and interaction[j, b] > 0:
                        share = 0.1 * math.tanh(0.1 * interaction[j, b] * max(shapley[b], 0))
                        credit += share * 0.9 ** (now - e)
            rise = max(0.0, committed - max([20.0, *(moment[2] for moment in episode[:now])]))
            want += min(0.2, 0.1 * rise, credit)
        assert step(ledger, moment, config)[0] == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_hindsight_is_never_negative_and_never_above_its_cap(seed):
    ledger = Ledger.start(np.array([20.0]), SLOTS)
    for moment in random_episode(seed):
        assert 0 <= step(ledger, moment, PAYING)[0] <= 0.2


def test_nothing_is_paid_when_the_committed_score_does_not_pass_its_best():
    help_all = np.where(np.eye(SLOTS, dtype=bool), 0, 50.0)
    none, one = np.zeros(SLOTS, bool), np.arange(SLOTS) == 0
    ledger = Ledger.start(np.array([20.0]), SLOTS)
    step(ledger, (none, none, 40.0, help_all, np.ones(SLOTS), True), PAYING)
    paid = step(ledger, (one, none, 39.0, help_all, np.ones(SLOTS), True), PAYING)
    assert paid[0] == 0


def test_a_scaffold_that_is_gone_by_the_fossilization_still_counts():
    help_0 = np.zeros((SLOTS, SLOTS))
    help_0[0, 1] = help_0[1, 0] = 50.0
    none, first, second = np.zeros(SLOTS, bool), np.arange(SLOTS) == 0, np.arange(SLOTS) == 1
    ledger = Ledger.start(np.array([20.0]), SLOTS)
    nothing = np.zeros((SLOTS, SLOTS))
    step(ledger, (none, none, 20.0, help_0, np.ones(SLOTS), True), PAYING)
    step(ledger, (none, second, 20.0, nothing, np.ones(SLOTS), True), PAYING)
    paid = step(ledger, (first, none, 30.0, nothing, np.ones(SLOTS), True), PAYING)
    assert paid[0] == pytest.approx(0.1 * math.tanh(5.0) * 0.995**2)


def test_a_seed_is_not_paid_for_the_epoch_of_its_own_fossilization():
    help_all = np.where(np.eye(SLOTS, dtype=bool), 0, 50.0)
    none, one = np.zeros(SLOTS, bool), np.arange(SLOTS) == 0
    ledger = Ledger.start(np.array([20.0]), SLOTS)
    assert step(ledger, (one, none, 40.0, help_all, np.ones(SLOTS), True), PAYING)[0] == 0


def test_environments_settle_independently_and_a_weight_of_zero_pays_nothing():
    episodes = [random_episode(seed) for seed in range(4)]
    stack = Ledger.start(np.full(4, 20.0), SLOTS)
    singles = [Ledger.start(np.array([20.0]), SLOTS) for _ in range(4)]
    free = Ledger.start(np.full(4, 20.0), SLOTS)
    names = ("fossilized", "emptied", "committed", "interaction", "shapley", "measured")
    for now in range(EPOCHS):
        arrays = {name: np.array([e[now][i] for e in episodes]) for i, name in enumerate(names)}
        together = settle(stack, **arrays, config=PAYING)
        alone = [step(s, e[now], PAYING)[0] for s, e in zip(singles, episodes, strict=True)]
        assert together.tolist() == alone
        assert not settle(free, **arrays, config=RewardConfig(hindsight=0)).any()
