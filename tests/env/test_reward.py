import numpy as np
import pytest

from esper_env import reward as rewards
from esper_env.actions import Op
from esper_env.config import ConfigError, RewardConfig
from esper_env.lifecycle.stages import Stage
from esper_env.reward import Moment, Transition, objective, potential, register_reward, resolve, terms, total

OBJECTIVE = ["progress", "forfeit", "rent", "shock", "op_cost", "governor"]
MODES = {
    "shaped": [*OBJECTIVE, "attribution", "stage", "hindsight"],
    "objective": OBJECTIVE,
    "simplified": ["progress", "forfeit", "activity"],
    "sparse": ["committed", "size"],
    "minimal": ["committed", "size", "early_prune"],
}
MAX_EPOCHS, BUDGET = 40, 500.0
BLENDED = (Stage.BLENDING, Stage.HOLDING, Stage.FOSSILIZED)
WEIGHT = {
    Stage.GERMINATED: 1,
    Stage.TRAINING: 2,
    Stage.BLENDING: 3.5,
    Stage.HOLDING: 5.5,
    Stage.FOSSILIZED: 6,
}


def random_moment(rng, envs, slots):
    shape = (envs, slots)
    return Moment(
        score=rng.random(envs) * 100,
        committed=rng.random(envs) * 100,
        stage=rng.integers(0, 10, shape).astype(np.int8),
        shapley=rng.normal(0, 5, shape),
        alpha=rng.choice([0, 0.3, 0.7, 1.0], shape),
        algorithm=rng.integers(0, 3, shape).astype(np.int8),
        params=rng.choice([0, 80, 300], shape),
        age=rng.integers(0, 12, shape),
    )


def random_step(rng, envs=16, slots=3, **given):
    shape = (envs, slots)
    fields = {
        "before": random_moment(rng, envs, slots),
        "after": random_moment(rng, envs, slots),
        "trained_alpha": rng.choice([0, 0.3, 0.7, 1.0], shape),
        "trained_params": rng.choice([0, 80, 300], shape),
        "trained_algorithm": rng.integers(0, 3, shape).astype(np.int8),
        "op": rng.integers(0, 6, envs),
        "slot": rng.integers(0, slots, envs),
        "rolled_back": rng.random(envs) < 0.2,
        "terminated": rng.random(envs) < 0.3,
        "hindsight": rng.random(envs) * 0.2,
        "max_epochs": MAX_EPOCHS,
        "budget": BUDGET,
    }
    return Transition(**fields | given)


def plain_potentials(moment, env):
    slots = range(moment.stage.shape[1])
    attribution = sum(moment.shapley[env, s] for s in slots if moment.stage[env, s] in BLENDED)
    return 0.03 * attribution, 0.1 * sum(WEIGHT.get(Stage(moment.stage[env, s]), 0) for s in slots)


def plain_terms(t, env):
    """Section 8 for one environment, one number at a time."""
    slots = range(t.before.stage.shape[1])
    last, op = bool(t.terminated[env]), Op(t.op[env])
    rent = shock = 0.0
    for s in slots:
        rent += t.trained_alpha[env, s] * t.trained_params[env, s] / BUDGET
        old, now = t.before.alpha[env, s], t.trained_alpha[env, s]
        blended_on_both_sides = old > 0 and now > 0
        if blended_on_both_sides and t.before.algorithm[env, s] != t.trained_algorithm[env, s]:
            jolt = old * old + now * now
        else:
            jolt = (now - old) ** 2
        shock += jolt * (t.trained_params[env, s] or t.before.params[env, s]) / BUDGET
    fossil_params = sum(t.after.params[env, s] for s in slots if t.after.stage[env, s] == Stage.FOSSILIZED)
    costs = {Op.GERMINATE: 0.02, Op.SET_ALPHA_TARGET: 0.005, Op.PRUNE: 0.005, Op.FOSSILIZE: 0.01}
    before, after = plain_potentials(t.before, env), plain_potentials(t.after, env)
    young = t.before.age[env, t.slot[env]] < 5
    return {
        "progress": 0.1 * (t.after.score[env] - t.before.score[env]),
        "forfeit": -0.1 * (t.after.score[env] - t.after.committed[env]) if last else 0,
        "rent": -rent / MAX_EPOCHS,
        "shock": -0.2 * shock,
        "op_cost": -costs.get(op, 0),
        "governor": -10 if t.rolled_back[env] else 0,
        "attribution": (0 if last else 0.995 * after[0]) - before[0],
        "stage": (0 if last else 0.995 * after[1]) - before[1],
        "hindsight": t.hindsight[env],
        "activity": -0.01 if op != Op.WAIT else 0,
        "committed": 0.1 * t.after.committed[env] if last else 0,
        "size": -fossil_params / BUDGET if last else 0,
        "early_prune": -0.1 if op == Op.PRUNE and young else 0,
    }


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(10))
def test_every_term_equals_its_formula_and_the_terms_sum_to_the_reward(mode, seed):
    step = random_step(np.random.default_rng(seed))
    got = terms(step, resolve(mode))
    assert list(got) == MODES[mode]
    for env in range(16):
        want = plain_terms(step, env)
        for name, values in got.items():
            assert values.shape == (16,)
            assert values[env] == pytest.approx(want[name], abs=1e-12)
    assert total(got).tolist() == [sum(column) for column in zip(*(v.tolist() for v in got.values()), strict=True)]


@pytest.mark.parametrize("seed", range(20))
def test_the_discounted_shaping_of_a_terminated_episode_is_zero(seed):
    rng = np.random.default_rng(seed)
    config = RewardConfig(gamma=float(rng.choice([0.9, 0.995, 1.0])))
    state = random_moment(rng, 8, 3)
    state.stage[:] = Stage.DORMANT
    discounted, length = np.zeros(8), int(rng.integers(1, 60))
    for t in range(length):
        after = random_moment(rng, 8, 3)
        step = random_step(rng, 8, before=state, after=after, terminated=np.full(8, t == length - 1))
        paid = terms(step, config)
        discounted += config.gamma**t * (paid["attribution"] + paid["stage"])
        state = after
    np.testing.assert_allclose(discounted, 0, atol=1e-9)


def test_the_shaping_of_a_truncated_episode_is_the_discounted_last_potential():
    rng = np.random.default_rng(0)
    config, discounted = RewardConfig(), np.zeros(4)
    state = random_moment(rng, 4, 3)
    state.stage[:] = Stage.DORMANT
    for t in range(20):
        after = random_moment(rng, 4, 3)
        paid = terms(random_step(rng, 4, before=state, after=after, terminated=np.zeros(4, bool)), config)
        discounted += config.gamma**t * (paid["attribution"] + paid["stage"])
        state = after
    np.testing.assert_allclose(discounted, config.gamma**20 * potential(state, config), atol=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_progress_and_forfeit_together_pay_what_was_committed(seed):
    rng = np.random.default_rng(seed)
    first = state = random_moment(rng, 5, 3)
    paid = np.zeros(5)
    for t in range(12):
        after = random_moment(rng, 5, 3)
        got = terms(random_step(rng, 5, before=state, after=after, terminated=np.full(5, t == 11)), RewardConfig())
        paid += got["progress"] + got["forfeit"]
        state = after
    np.testing.assert_allclose(paid, 0.1 * (state.committed - first.score), atol=1e-9)


@pytest.mark.parametrize("mode", MODES)
def test_the_objective_is_the_same_in_every_mode(mode):
    step = random_step(np.random.default_rng(1))
    want = total(terms(step, RewardConfig(mode="objective")))
    assert objective(step, resolve(mode)).tolist() == want.tolist()
    config = resolve({"mode": mode, "progress": 1.0, "rent": 3.0, "stage": 0.5})
    assert objective(step, config, terms(step, config)).tolist() == want.tolist()


def test_an_instant_change_shocks_more_than_a_ramp_and_a_switch_as_much_as_leaving_and_coming():
    rng = np.random.default_rng(0)
    before = random_moment(rng, 3, 1)
    before.alpha[:, 0], before.algorithm[:], before.params[:] = [0, 0.4, 0.5], 0, 100

    def shock(now, algorithm):
        step = random_step(
            rng,
            3,
            1,
            before=before,
            trained_alpha=np.array(now)[:, None],
            trained_params=np.full((3, 1), 100),
            trained_algorithm=np.full((3, 1), algorithm, np.int8),
        )
        return terms(step, RewardConfig())["shock"]

    instant, ramp, switched = shock([1.0, 1.0, 0.5], 0), shock([0.5, 0.7, 0.5], 0), shock([1.0, 0.6, 0.5], 2)
    scale = -0.2 * 100 / BUDGET
    assert (instant[:2] < 2 * ramp[:2]).all()
    np.testing.assert_allclose(instant, scale * np.array([1, 0.36, 0]))
    np.testing.assert_allclose(switched, scale * np.array([1, 0.52, 0.5]))


def test_a_seed_pruned_in_this_step_shocks_with_the_parameters_it_had():
    rng = np.random.default_rng(0)
    before = random_moment(rng, 1, 1)
    before.alpha[:], before.params[:] = 1.0, 250
    zeros = np.zeros((1, 1), np.int64)
    step = random_step(rng, 1, 1, before=before, trained_alpha=zeros + 0.0, trained_params=zeros)
    assert terms(step, RewardConfig())["shock"][0] == pytest.approx(-0.2 * 250 / BUDGET)
    assert terms(step, RewardConfig())["rent"][0] == 0


def test_a_bigger_seed_pays_more_rent():
    rng = np.random.default_rng(0)
    step = random_step(rng, 2, 1, trained_alpha=np.ones((2, 1)), trained_params=np.array([[100], [101]]))
    small, big = terms(step, RewardConfig())["rent"]
    assert big < small < 0


def test_weights_of_zero_switch_their_terms_off():
    costs = ("germinate_cost", "set_alpha_cost", "prune_cost", "fossilize_cost", "governor")
    weights = dict.fromkeys(("progress", "rent", "shock", *costs, "attribution", "stage"), 0.0)
    got = terms(random_step(np.random.default_rng(2)), resolve(weights))
    assert not any(values.any() for name, values in got.items() if name != "hindsight")


def test_a_reward_is_resolved_from_a_name_a_dict_a_config_or_nothing():
    assert resolve(None) == RewardConfig()
    assert resolve("sparse") == RewardConfig(mode="sparse")
    assert resolve({"mode": "minimal", "rent": 2.0}) == RewardConfig(mode="minimal", rent=2.0)
    assert resolve({"rent": 2.0}).mode == "shaped"
    config = RewardConfig(mode="objective")
    assert resolve(config) is config


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ("shapd", "'shapd'. Did you mean 'shaped'"),
        ({"mode": "objectiv"}, "Did you mean 'objective'"),
        ({"rnt": 1.0}, "Did you mean 'rent'"),
        (RewardConfig(mode="spars"), "Did you mean 'sparse'"),
        (3, "reward must be a dict"),
        ({"rent": -1.0}, "reward.rent must be"),
    ],
)
def test_an_unknown_reward_is_refused_with_the_nearest_name(reward, message):
    with pytest.raises(ConfigError) as error:
        resolve(reward)
    assert message in str(error.value)


def test_a_registered_reward_is_paid_by_name(monkeypatch):
    monkeypatch.setattr(rewards, "REWARDS", dict(rewards.REWARDS))

    def score_only(step, config):
        return {"score": step.after.score}

    register_reward("score_only", score_only)
    register_reward("score_only", score_only)
    step = random_step(np.random.default_rng(0))
    assert total(terms(step, resolve("score_only"))).tolist() == step.after.score.tolist()
    with pytest.raises(ConfigError, match="exists already"):
        register_reward("shaped", score_only)
