"""One scenario played, and every step checked against the one before and against what the masks promised."""

from collections import Counter
from functools import reduce

import numpy as np

from esper_env.actions import CAUSAL_MASK, Algorithm, Op, blueprint_names
from esper_env.lifecycle.stages import Stage
from esper_env.observation import BASE_FEATURES, SLOT_FEATURES
from tests.properties.fingerprints import differences
from tests.properties.players import BLUEPRINT, OP, SLOT, SOURCES, Player
from tests.properties.scenarios import Scenario

REFUSALS_EVERY = 10
"""Steps after which refused actions are compared with WAIT, at the most; in every scenario thrice at least."""

NEXT = {
    Stage.DORMANT: {Stage.GERMINATED},
    Stage.GERMINATED: {Stage.TRAINING, Stage.PRUNED},
    Stage.TRAINING: {Stage.BLENDING, Stage.PRUNED},
    Stage.BLENDING: {Stage.HOLDING, Stage.PRUNED},
    Stage.HOLDING: {Stage.FOSSILIZED, Stage.BLENDING, Stage.PRUNED},
    Stage.FOSSILIZED: set(),
    Stage.PRUNED: {Stage.EMBARGOED},
    Stage.EMBARGOED: {Stage.RESETTING},
    Stage.RESETTING: {Stage.DORMANT},
}
"""The legal table, written down once more."""
LEGAL = np.array([[now == then or now in NEXT.get(then, ()) for now in Stage] for then in Stage])
LIVE = [Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING, Stage.HOLDING]
BLENDED = [Stage.BLENDING, Stage.HOLDING, Stage.FOSSILIZED]
COOLDOWN = [Stage.PRUNED, Stage.EMBARGOED, Stage.RESETTING]
OBJECTIVE = ("progress", "forfeit", "rent", "shock", "op_cost", "governor")
COLUMN = {f.name: i for i, f in enumerate(SLOT_FEATURES)}
LAST_ACTION = [i for i, f in enumerate(BASE_FEATURES) if f.name.startswith("last_action")]


class Journey:
    """One scenario played, every step checked against the one before."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.envs = scenario.make()
        self.rng = np.random.default_rng(len(scenario.name))
        self.slots = self.envs.config.num_slots
        self.player = Player(self.slots, self.rng)
        self.sources = [SOURCES[i % len(SOURCES)] for i in range(scenario.envs)]
        self.joint = np.isin(self.sources, ("joint", "eager"))
        self.plantable = np.isin(blueprint_names(), self.envs.config.blueprints)
        self.seen: Counter = Counter()
        self.cooling = np.zeros((scenario.envs, self.slots), int)
        observation, info = self.envs.reset(seed=1000 * len(scenario.name))
        self.observation, self.info = observation, info
        self.fresh = np.zeros(scenario.envs, bool)
        """Hosts that the coming step only resets (`next_step`)."""
        self.check_state(observation, info)

    def play(self, steps: int) -> Counter:
        every = min(max(steps // 3, 1), REFUSALS_EVERY)
        for t in range(steps):
            self.step(compare=t % every == every // 2)
        self.envs.close()
        self.seen["steps"] = steps * self.scenario.envs
        return self.seen

    def actions(self):
        drawn = {source: getattr(self.player, source)(self.observation) for source in SOURCES}
        return np.stack([drawn[source][i] for i, source in enumerate(self.sources)])

    # What must follow, from the observation alone

    def executes(self, vectors):
        """Will these actions execute? What the masks say, and the head values that the op makes use of."""
        op, slot, blueprint = vectors[:, OP], vectors[:, SLOT], vectors[:, BLUEPRINT]
        rows = np.arange(len(vectors))
        inside = (vectors >= 0) & (vectors < self.player.sizes)
        safe = np.where(inside, vectors, 0)
        op_legal = self.observation["action_mask"][:, self.player.spans[OP]][rows, safe[:, OP]]
        pair_legal = self.player.slot_by_op(self.observation)[rows, safe[:, OP], safe[:, SLOT]]
        plant_legal = self.observation["action_mask"][:, self.player.spans[BLUEPRINT]][rows, safe[:, BLUEPRINT]]
        sound = inside[:, OP] & (inside | ~CAUSAL_MASK[safe[:, OP]]).all(1)
        acts = op_legal & pair_legal & ((op != Op.GERMINATE) | plant_legal)
        assert (slot >= 0)[sound & (op != Op.WAIT)].all()
        assert (blueprint > 0)[sound & acts.astype(bool) & (op == Op.GERMINATE)].all()
        return sound & ((op == Op.WAIT) | acts.astype(bool))

    def column(self, name):
        return self.slot_features(self.observation, name)

    def slot_features(self, observation, name):
        per_slot = observation["features"][:, len(BASE_FEATURES) :]
        return per_slot.reshape(-1, self.slots, len(SLOT_FEATURES))[:, :, COLUMN[name]]

    def stages(self, vectors, executed):
        """The stages that must follow, wherever neither the governor nor automatic advance steps in."""
        stage, config = self.info["stage"].copy(), self.envs.config.lifecycle
        ramping = self.column("alpha_mode") == 0.5
        arriving = ramping & (self.column("alpha_target") == 0) & (self.column("time_to_target") == 1 / 8)
        cooled = {Stage.PRUNED: Stage.EMBARGOED, Stage.RESETTING: Stage.DORMANT}
        after = np.select([stage == s for s in cooled], list(cooled.values()), stage)
        embargo_over = self.cooling == config.embargo_epochs + 1
        after[(stage == Stage.EMBARGOED) & embargo_over] = Stage.RESETTING
        after[arriving] = Stage.PRUNED
        for env in np.flatnonzero(executed & (vectors[:, OP] != Op.WAIT)):
            slot, op = vectors[env, SLOT], vectors[env, OP]
            then = stage[env, slot]
            at_once = then in (Stage.GERMINATED, Stage.TRAINING) or vectors[env, 5] == 0
            lowered = then == Stage.HOLDING and vectors[env, 4] < 2
            after[env, slot] = {
                Op.GERMINATE: Stage.GERMINATED,
                Op.ADVANCE: then + 1,
                Op.FOSSILIZE: Stage.FOSSILIZED,
                Op.PRUNE: Stage.PRUNED if at_once else then,
                Op.SET_ALPHA_TARGET: Stage.BLENDING if lowered else then,
            }[Op(op)]
        return after

    # Steps

    def step(self, compare: bool) -> None:
        vectors = self.actions()
        executed = self.executes(vectors)
        assert executed[self.joint].all(), "a legal pair of op and slot was predicted to be refused"
        expected = self.stages(vectors, executed)
        if self.scenario.faults:
            self.lose_weights()
        if compare:
            self.refusals_are_waiting(vectors, executed)
        observation, reward, terminated, truncated, info = self.envs.step(vectors)
        assert self.envs.observation_space.contains(observation)
        seen_observation, seen_info = landed(observation, info)
        live = ~self.fresh
        self.check_state(seen_observation, seen_info)
        self.check_actions(vectors, executed, seen_info, live)
        self.check_lifecycle(expected, seen_info, live)
        self.check_reward(reward, seen_info, live, terminated)
        self.check_episode(seen_info, live, terminated, truncated)
        over = terminated | truncated
        self.cooling = np.where(np.isin(seen_info["stage"], COOLDOWN), self.cooling + 1, 0)
        self.cooling[over | self.fresh] = 0
        self.observation, self.info = observation, info
        self.fresh = over & (self.scenario.autoreset == "next_step")
        if over.any() and self.scenario.autoreset == "disabled":
            self.observation, self.info = self.envs.reset(options={"reset_mask": over})
        if over.any() and self.scenario.autoreset != "next_step":
            assert (self.info["epoch"][over] == 0).all()

    def lose_weights(self) -> None:
        """Most often where seeds are permanent, as few hosts get that far and these must come back whole too."""
        simulation = self.envs.unwrapped._simulation
        chance = np.where((self.info["stage"] == Stage.FOSSILIZED).any(1), 0.5, 0.04)
        for env in np.flatnonzero(self.rng.random(self.scenario.envs) < chance).tolist():
            network, local = simulation.population.home(env)
            network.trunk.value[local, :3] = np.nan

    def refusals_are_waiting(self, vectors, executed) -> None:
        """Play the step twice from one state: with the refused actions, and with WAIT in their place."""
        state = self.envs.get_state()
        waiting = vectors.copy()
        waiting[~executed] = self.player.sizes - 1  # heads that do not matter may hold anything
        waiting[~executed, OP] = Op.WAIT
        outcomes = []
        for choice in (vectors, waiting):
            self.envs.set_state(state)
            observation, reward, *_ = self.envs.step(choice)
            features = observation["features"].copy()
            features[:, LAST_ACTION] = 0
            outcome = self.envs.get_state()["simulation"]
            for part, names in {"signals": ("last_op", "last_success"), "counters": ("executed",)}.items():
                for name in names:
                    getattr(outcome[part], name)[:] = 0
            outcomes.append([outcome, observation | {"features": features}, reward])
        assert differences(*outcomes) == []
        self.envs.set_state(state)
        self.seen["refusals compared"] += int((~executed & ~self.fresh).sum())

    # Promises

    def check_state(self, observation, info) -> None:
        stage, config = info["stage"], self.envs.config
        for name, value in flat(info):
            if np.asarray(value).dtype != object:
                assert np.isfinite(value).all(), name
        assert np.isfinite(observation["features"]).all()
        assert self.envs.observation_space.contains(observation)
        for span in self.player.spans:
            assert observation["action_mask"][:, span].any(1).all(), "a head allows nothing"
        assert self.player.slot_by_op(observation).any(2).all()
        ops = observation["action_mask"][:, self.player.spans[OP]]
        blueprints = observation["action_mask"][:, self.player.spans[BLUEPRINT]].astype(bool)
        assert (
            blueprints == np.where(ops[:, [Op.GERMINATE]], self.plantable, np.arange(len(self.plantable)) == 0)
        ).all()
        assert ops[:, Op.WAIT].all()
        assert not (config.lifecycle.auto_advance and ops[:, Op.ADVANCE].any())
        np.testing.assert_array_equal(np.concatenate(info["action_mask"], -1), observation["action_mask"])
        assert not (stage == Stage.UNKNOWN).any()
        alpha = info["alpha"]
        assert ((alpha >= 0) & (alpha <= 1)).all()
        assert (np.isin(stage, BLENDED) == (alpha > 0)).all()
        assert (alpha[stage == Stage.FOSSILIZED] == 1).all()
        leaving = self.slot_features(observation, "alpha_target") == 0  # on its way to be pruned
        assert (alpha[(stage == Stage.HOLDING) & ~leaving] == 1).all()
        assert ((stage == Stage.DORMANT) == (observation["blueprint_index"] == -1)).all()
        assert (np.isin(stage, [*LIVE, Stage.FOSSILIZED]).sum(1) <= config.lifecycle.max_seeds).all()
        assert ((info["seed_params"] > 0) == np.isin(stage, [*LIVE, Stage.FOSSILIZED]).any(1)).all()
        assert (info["contributing_fossilized"] <= (stage == Stage.FOSSILIZED).sum(1)).all()

    def check_actions(self, vectors, executed, info, live) -> None:
        np.testing.assert_array_equal(info["action_executed"][live], executed[live])
        source = np.array(self.sources)
        for env in np.flatnonzero(live):
            op = int(vectors[env, OP]) if 0 <= vectors[env, OP] < len(Op) else "beyond"
            self.seen["executed" if executed[env] else "refused", source[env], op] += 1
            if executed[env] and op == Op.GERMINATE:
                self.seen["style", int(vectors[env, 2])] += 1
                self.seen["blueprint", blueprint_names()[vectors[env, BLUEPRINT]]] += 1
            if executed[env] and op == Op.SET_ALPHA_TARGET:
                self.seen["switch", int(vectors[env, 2]), int(self.info["stage"][env, vectors[env, SLOT]])] += 1
            if executed[env] and op == Op.PRUNE:
                self.seen["prune", int(self.info["stage"][env, vectors[env, SLOT]]), int(vectors[env, 5])] += 1

    def check_lifecycle(self, expected, info, live) -> None:
        then, now = self.info["stage"], info["stage"]
        lost = info["rolled_back"][:, None] & np.isin(expected, LIVE)
        expected = np.where(lost, Stage.PRUNED, expected)
        if self.envs.config.lifecycle.auto_advance:
            moved = (now == expected + 1) & (expected >= Stage.GERMINATED) & (expected < Stage.HOLDING)
            self.seen["advanced by itself"] += int(moved[live].sum())
            expected = np.where(moved, now, expected)
        np.testing.assert_array_equal(now[live], expected[live])
        by_governor = info["rolled_back"][:, None] & (now == Stage.PRUNED)
        assert (LEGAL[then, now] | by_governor)[live].all()

        created = ((then == Stage.DORMANT) & (now != Stage.DORMANT)).sum(1)
        fossilized = ((then != Stage.FOSSILIZED) & (now == Stage.FOSSILIZED)).sum(1)
        pruned = ((then != Stage.PRUNED) & (now == Stage.PRUNED)).sum(1)
        for name, events in {"created": created, "fossilized": fossilized, "pruned": pruned}.items():
            counted = info[f"seeds_{name}"] - self.info[f"seeds_{name}"]
            np.testing.assert_array_equal(counted[live], events[live], err_msg=name)
        for stage, count in zip(*np.unique(now, return_counts=True), strict=True):
            self.seen["stage", Stage(stage)] += int(count)
        algorithm = np.round(self.column("algorithm") * 2)
        for value in np.unique(algorithm[np.isin(then, BLENDED)]):
            self.seen["algorithm", Algorithm(int(value))] += 1

    def check_reward(self, reward, info, live, terminated) -> None:
        terms = {name: term for name, term in info["reward_terms"].items() if not name.startswith("_")}
        total = reduce(np.add, terms.values())
        assert (total == reward)[live].all()
        assert (reward[~live] == 0).all()
        assert np.isfinite(reward).all()
        if set(OBJECTIVE) <= terms.keys():
            objective = reduce(np.add, [terms[name] for name in OBJECTIVE])
            np.testing.assert_array_equal(objective[live], info["objective_reward"][live])
            gained = 0.1 * (info["score"] - self.info["score"])
            np.testing.assert_allclose(terms["progress"][live], gained[live], atol=1e-12)
            np.testing.assert_array_equal(terms["governor"][live], np.where(info["rolled_back"], -10.0, 0.0)[live])
            assert (terms["forfeit"][live & ~terminated] == 0).all()
            assert (terms["rent"] <= 0).all()
            assert (terms["shock"] <= 0).all()

    def check_episode(self, info, live, terminated, truncated) -> None:
        config, limit = self.envs.config, self.scenario.max_episode_steps
        np.testing.assert_array_equal(info["epoch"][live], self.info["epoch"][live] + 1)
        over = info["epoch"] >= config.max_epochs
        if config.on_panic == "terminate":
            over |= info["rolled_back"]
        np.testing.assert_array_equal(terminated, over & live)
        np.testing.assert_array_equal(truncated, live & (limit is not None) & (info["epoch"] >= (limit or 0)))
        assert ((info["test_accuracy"] >= 0) == over)[live].all()
        assert (info["flops"] > self.info["flops"])[live].all()
        self.seen["terminated"] += int(terminated.sum())
        self.seen["truncated"] += int(truncated.sum())
        self.seen["rolled back", config.on_panic] += int((info["rolled_back"] & live).sum())
        had_fossils = (self.info["stage"] == Stage.FOSSILIZED).any(1)
        self.seen["rolled back with fossils"] += int((info["rolled_back"] & live & had_fossils).sum())


def flat(info, prefix=""):
    for name, value in info.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        elif isinstance(value, tuple):
            yield from ((f"{prefix}{name}.{i}", part) for i, part in enumerate(value))
        else:
            yield prefix + name, value


def landed(observation, info):
    """What the step itself led to: where `same_step` has begun a new episode already, the last of the old one."""
    if "final_info" not in info:
        return observation, info
    over, final, last = info["_final_info"], info["final_info"], info["final_obs"]
    seen = {name: array.copy() for name, array in observation.items()}
    for env in np.flatnonzero(over):
        for name, array in seen.items():
            array[env] = last[env][name]

    def merged(new, old):
        if isinstance(new, dict):
            return {name: merged(value, old[name]) for name, value in new.items() if name in old}
        if isinstance(new, tuple):
            return tuple(merged(a, b) for a, b in zip(new, old, strict=True))
        return np.where(over.reshape(-1, *[1] * (new.ndim - 1)), old, new)

    return seen, merged(info, final)
