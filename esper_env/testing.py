"""For whoever tests environments, tasks, blueprints or agents: a checker, and two controls, waiting and growing."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from esper_env.actions import CANONICAL_ACTION, CAUSAL_HEADS, HEAD_INDEX, HEAD_NAMES, Op, blueprint_names
from esper_env.arrays import Bools, Ints
from esper_env.env import SeedEnv
from esper_env.lifecycle.stages import BLENDED, LEGAL_TRANSITIONS, PRESENT, Stage
from esper_env.observation import BASE_FEATURES, SLOT_FEATURES, features
from esper_env.spaces import Observation
from esper_env.waiting import WaitingTwin, waiting_twin

__all__ = ["ScriptedGrower", "WaitingTwin", "check_seed_env", "waiting_twin"]

Info = dict[str, Any]
Step = tuple[Observation, float, bool, bool, Info]
Action = Ints
OP, SLOT, BLUEPRINT = (HEAD_INDEX[name] for name in ("op", "slot", "blueprint"))


@dataclass(frozen=True)
class ScriptedGrower:
    """Plants every slot, moves each seed on as soon as it may, and makes it permanent: what can finish goes first.

    Call it with an observation of one environment or of a vector environment; it reads nothing but the masks.
    """

    blueprints: Sequence[str] | None = None
    """Blueprint by slot, the list repeating; the first that the mask allows when None."""

    PRIORITY = (Op.FOSSILIZE, Op.ADVANCE, Op.GERMINATE)

    def __call__(self, observation: Observation) -> Ints:
        """The next action, `[8]`, or actions, `[envs, 8]`."""
        mask, legal = observation["action_mask"], legal_slots(observation)
        ready = legal[..., self.PRIORITY, :]
        priority, slot = np.divmod(ready.reshape(*mask.shape[:-1], -1).argmax(-1), legal.shape[-1])
        actions = np.broadcast_to(CANONICAL_ACTION, (*mask.shape[:-1], len(CANONICAL_ACTION))).copy()
        actions[..., OP] = np.where(ready.any((-2, -1)), np.array(self.PRIORITY)[priority], Op.WAIT)
        actions[..., SLOT] = slot
        if self.blueprints is None:
            actions[..., BLUEPRINT] = mask[..., legal.shape[-1] :].argmax(-1)
        else:
            chosen = [blueprint_names().index(name) for name in self.blueprints]
            actions[..., BLUEPRINT] = np.resize(chosen, legal.shape[-1])[slot]
        return actions


def legal_slots(observation: Observation) -> Bools:
    """`legal[..., op, slot]`, read from the masks of an observation."""
    rows = observation["slot_by_op"]
    legal = rows.reshape(*rows.shape[:-1], len(Op), -1).astype(bool)
    return np.asarray(legal & observation["action_mask"][..., -len(Op) :, None].astype(bool))


def check_seed_env(env: gymnasium.Env[Any, Any], *, seed: int = 0, steps: int = 120) -> None:
    """Check what Gymnasium's `check_env` does not know about: that an environment keeps Esper's promises.

    Plays `steps` random steps over as many episodes as they take, then plays them again. On the way every kind of
    action (op, stage of the slot, masked or not; every blueprint; values outside the space) is tried once and taken
    back: what is unmasked must execute, what is masked must do exactly what WAIT does. Observation, masks, info,
    reward terms, counters and transitions must agree with each other in every step, and states must continue bit for
    bit where they were taken. Wrappers are looked through. The environment is reset afterwards.

    Args:
        env: an environment made by `gymnasium.make`, with whatever task, blueprints and options.
        seed: what the episodes and the actions are drawn from.
        steps: how long to play; more reach more of what a seed can live through.

    Raises:
        AssertionError: saying what is wrong, and in which episode and epoch.
    """
    bare = env.unwrapped
    _require(isinstance(bare, SeedEnv), f"check_seed_env checks a SeedEnv, got {type(bare).__name__}.")
    assert isinstance(bare, SeedEnv)
    walk, episode = _Walk(bare, np.random.default_rng(seed)), seed
    while steps > 0:
        steps -= walk.play(episode, steps)
        episode += 1
    env.reset(seed=seed)


class _Walk:
    """Random episodes, checked step by step."""

    def __init__(self, env: SeedEnv, rng: np.random.Generator) -> None:
        self.env, self.rng = env, rng
        self.sizes = env.action_space.nvec
        self.untold = [not f.name.startswith("last_action") for f in features(env.config.num_slots)]
        self.tried: set[tuple[Any, ...]] = set()
        self.planted = np.zeros(self.sizes[BLUEPRINT])
        self.layout: dict[str, Any] | None = None
        self.where = ""

    def play(self, seed: int, most: int) -> int:
        """One episode of at most so many steps, twice; returns its length."""
        self.where = f"reset(seed={seed})"
        start = self.env.reset(seed=seed)
        self.check_state(*start)
        track: list[tuple[Action, Step]] = []
        before, over = start, False
        while not over and len(track) < most:
            self.where = f"the episode of seed {seed} at epoch {len(track)}"
            state = self.env.get_state()
            self.probe(state, before)
            action = self.choose(before[0])
            if len(track) % 10 == 5:
                self.check_copies(state, action)
            self.env.set_state(state)
            after = self.env.step(action)
            self.check_step(before, action, after)
            track.append((action, after))
            before, over = (after[0], after[4]), after[2]
        self.where = f"a second episode of seed {seed}"
        self.same(start, self.env.reset(seed=seed), "reset with the same seed differs")
        for epoch, (action, after) in enumerate(track):
            self.same(after, self.env.step(action), f"the same actions lead elsewhere at epoch {epoch}")
        return len(track)

    # Actions

    def choose(self, observation: Observation) -> Action:
        """A legal action that brings seeds forward, with blueprints in turn."""
        legal = np.argwhere(legal_slots(observation))
        weight = np.array([1.0, 3.0, 1.0, 0.5, 1.0, 6.0])[legal[:, 0]]
        op, slot = legal[self.rng.choice(len(legal), p=weight / weight.sum())]
        action = self.any_action(op, slot)
        if op == Op.GERMINATE:
            allowed = np.flatnonzero(self.split(observation)["blueprint"])
            action[BLUEPRINT] = allowed[self.planted[allowed].argmin()]
            self.planted[action[BLUEPRINT]] += 1
        return action

    def any_action(self, op: int, slot: int) -> Action:
        action = self.rng.integers(0, self.sizes)
        action[[OP, SLOT]] = op, slot
        return action

    def split(self, observation: Observation) -> dict[str, npt.NDArray[np.int8]]:
        ends = np.cumsum(self.sizes)[:-1]
        return dict(zip(HEAD_NAMES, np.split(observation["action_mask"], ends), strict=True))

    def allowed(self, observation: Observation, action: Action) -> bool:
        """Do the masks promise that the action executes?"""
        op, slot, blueprint = action[[OP, SLOT, BLUEPRINT]].tolist()
        matters = [name in CAUSAL_HEADS.get(op, ()) or name == "op" for name in HEAD_NAMES]
        if not ((action >= 0) & (action < self.sizes))[matters].all():
            return False
        if op == Op.WAIT:
            return True
        suits = op != Op.GERMINATE or self.split(observation)["blueprint"][blueprint]
        return bool(legal_slots(observation)[op, slot] and suits)

    def untried(self, observation: Observation, stage: Ints) -> Iterator[tuple[tuple[Any, ...], Action]]:
        """Actions of kinds that have not been tried, as far as this state offers them."""
        legal = legal_slots(observation)
        for op, slot in np.ndindex(legal.shape):
            yield (op, int(stage[slot]), bool(legal[op, slot])), self.any_action(op, slot)
        for op, slot in np.argwhere(legal).tolist():
            action = self.any_action(op, slot)
            if op == Op.GERMINATE:
                for blueprint in range(self.sizes[BLUEPRINT]):
                    yield ("blueprint", blueprint), np.where(np.arange(len(action)) == BLUEPRINT, blueprint, action)
                action[BLUEPRINT] = np.flatnonzero(self.split(observation)["blueprint"])[0]
            for head, name in enumerate(HEAD_NAMES):
                value = -1 if (op + head) % 2 else self.sizes[head]
                yield ("outside", op, name), np.where(np.arange(len(action)) == head, value, action)

    def probe(self, state: dict[str, Any], before: tuple[Observation, Info]) -> None:
        """Try what has not been tried, each from this very state."""
        waited: Step | None = None
        for kind, action in self.untried(before[0], before[1]["stage"]):
            if kind in self.tried:
                continue
            self.tried.add(kind)
            self.env.set_state(state)
            after = self.env.step(action)
            self.check_step(before, action, after)
            if not after[4]["action_executed"]:
                if waited is None:
                    self.env.set_state(state)
                    waited = self.env.step(CANONICAL_ACTION.copy())
                self.same(
                    self.without_action(waited),
                    self.without_action(after),
                    f"the refused {self.describe(action)} did not do the same as WAIT",
                )

    def without_action(self, step: Step) -> Step:
        """A step's outcome less what it says about the action that was asked for."""
        observation, reward, terminated, truncated, info = step
        kept = observation | {"features": observation["features"][self.untold]}
        return kept, reward, terminated, truncated, info | {"action_executed": False}

    def describe(self, action: Action) -> str:
        op, slot, blueprint = action[[OP, SLOT, BLUEPRINT]].tolist()
        names = blueprint_names()
        what = f" of {names[blueprint]}" if op == Op.GERMINATE and 0 <= blueprint < len(names) else ""
        return f"{Op(op).name if op in list(Op) else f'op {op}'}{what} on slot {slot} ({action.tolist()})"

    # Checks

    def require(self, held: Any, problem: str) -> None:
        _require(bool(held), f"In {self.where}: {problem}.")

    def same(self, expected: Any, found: Any, problem: str) -> None:
        difference = _difference(expected, found)
        self.require(difference is None, f"{problem}{difference}")

    def check_copies(self, state: dict[str, Any], action: Action) -> None:
        """A fork, and a state that went through pickle, continue alike."""
        self.env.set_state(state)
        fork = self.env.fork()
        expected = self.env.step(action)
        self.same(expected, fork.step(action), "a fork goes another way")
        fork.set_state(pickle.loads(pickle.dumps(state)))
        self.same(expected, fork.step(action), "a restored state goes another way")

    def check_state(self, observation: Observation, info: Info) -> None:
        """What must hold in every state, whatever led to it."""
        space = self.env.observation_space
        self.require(space.contains(observation), f"the observation is outside its space{_outside(space, observation)}")
        values = dict(_numbers(info))
        layout = {name: (value.dtype.str, value.shape) for name, value in values.items()}
        self.layout = self.layout or layout
        changed = sorted(name for name, _ in self.layout.items() ^ layout.items())
        self.require(not changed, f"keys, dtypes or shapes of info changed: {', '.join(changed)}")
        wrong = [name for name, value in values.items() if value.dtype.kind not in "biuf"]
        self.require(not wrong, f"info holds other things than numbers: {', '.join(wrong)}")
        infinite = [name for name, value in values.items() if not np.isfinite(value).all()]
        self.require(not infinite, f"info is not finite: {', '.join(infinite)}")
        self.check_masks(observation, info)
        self.check_agreement(observation, info)

    def check_masks(self, observation: Observation, info: Info) -> None:
        heads, legal = self.split(observation), legal_slots(observation)
        flat = observation["action_mask"]
        self.require(np.array_equal(flat, np.concatenate(info["action_mask"])), "masks of observation and info differ")
        self.require(np.array_equal(flat, self.env.action_masks()), "action_masks() differs from the observation")
        self.require(all(head.any() for head in heads.values()), "a head allows nothing")
        self.require(heads["op"][Op.WAIT], "WAIT is masked")
        rows = observation["slot_by_op"].reshape(len(Op), -1)
        self.require(rows.any(1).all(), "a row of slot_by_op allows nothing")
        union = np.array(np.delete(legal, Op.WAIT, 0).any(0))
        union[0] |= not union.any()
        self.require(np.array_equal(heads["slot"], union), "the slot mask is not the union of the legal ops' slots")
        idle = ~np.delete(heads["op"], Op.WAIT).astype(bool)
        canonical = np.arange(len(union)) == union.argmax()
        self.require(
            (np.delete(rows, Op.WAIT, 0)[idle] == canonical).all() and (rows[Op.WAIT] == canonical).all(),
            "the row of an op that needs no slot does not allow the canonical slot alone",
        )
        action = self.env.action_space.sample(mask=info["action_mask"])
        self.require(self.env.action_space.contains(action), "sampling with info['action_mask'] leaves the space")

    def check_agreement(self, observation: Observation, info: Info) -> None:
        """Observation, info and counters tell the same story."""
        config, stage = self.env.config, info["stage"]
        base = dict(zip((f.name for f in BASE_FEATURES), observation["features"], strict=False))
        slots = dict(zip((f.name for f in SLOT_FEATURES), self.by_slot(observation).T, strict=True))
        active = stage != Stage.DORMANT
        told = {
            "epoch_progress": (base, info["epoch"] / config.max_epochs),
            "accuracy": (base, info["val_accuracy"] / 100),
            "last_action_success": (base, info["action_executed"]),
            "is_active": (slots, active),
            "alpha": (slots, info["alpha"]),
            **{f"stage_{s.name.lower()}": (slots, active & (stage == s)) for s in Stage},
        }
        wrong = [name for name, (seen, value) in told.items() if (np.abs(seen[name] - value) > 1e-6).any()]
        self.require(not wrong, f"features and info disagree about {', '.join(wrong)}")
        empty = observation["blueprint_index"] == -1
        self.require(np.array_equal(empty, stage == Stage.DORMANT), "blueprint_index is not -1 just where DORMANT")
        self.require((info["alpha"][~BLENDED[stage]] == 0).all(), "a seed that is not blended has alpha")
        present, fossilized = PRESENT[stage].sum(), (stage == Stage.FOSSILIZED).sum()
        self.require(info["seeds_fossilized"] == fossilized, f"seeds_fossilized is not {fossilized}")
        self.require(info["contributing_fossilized"] <= fossilized, "more fossils contribute than there are")
        self.require(
            info["seeds_created"] == info["seeds_pruned"] + present, "seeds created, pruned and present differ"
        )
        self.require(present or not info["seed_params"], "there are seed_params without a seed")

    def by_slot(self, observation: Observation) -> npt.NDArray[Any]:
        return observation["features"][len(BASE_FEATURES) :].reshape(self.env.config.num_slots, -1)

    def check_step(self, before: tuple[Observation, Info], action: Action, after: Step) -> None:
        """What must hold between two states."""
        observation, reward, terminated, truncated, info = after
        old, config, op = before[1], self.env.config, int(action[OP])
        executed, promised = bool(info["action_executed"]), self.allowed(before[0], action)
        self.require(
            executed == promised,
            f"the {'un' if promised else ''}masked {self.describe(action)} was {'' if executed else 'not '}executed",
        )
        self.check_state(observation, info)
        self.require(type(reward) is float and np.isfinite(reward), f"the reward is {reward!r}")
        terms = sum(info["reward_terms"].values())
        self.require(reward == terms, f"the reward is {reward!r}, its terms add up to {terms!r}")
        self.require(info["epoch"] == old["epoch"] + 1, f"the epoch went from {old['epoch']} to {info['epoch']}")
        self.require(info["flops"] > old["flops"], "an epoch took no flops")
        panic = config.on_panic == "terminate" and info["rolled_back"]
        self.require(terminated == (info["epoch"] == config.max_epochs or panic), f"terminated is {terminated}")
        self.require(not truncated, "the environment truncated by itself")
        self.require((info["test_accuracy"] >= 0) == terminated, "test_accuracy is not there just at the end")
        was, now = old["stage"], info["stage"]
        for slot, (a, b) in enumerate(zip(was.tolist(), now.tolist(), strict=True)):
            self.require(
                _legal(Stage(a), Stage(b), bool(info["rolled_back"])),
                f"after {self.describe(action)} slot {slot} went from {Stage(a).name} to {Stage(b).name}",
            )
        events = {
            "seeds_created": (was == Stage.DORMANT) & (now != Stage.DORMANT),
            "seeds_fossilized": (was != Stage.FOSSILIZED) & (now == Stage.FOSSILIZED),
            "seeds_pruned": (was != Stage.PRUNED) & (now == Stage.PRUNED),
        }
        for name, happened in events.items():
            rise = info[name] - old[name]
            self.require(rise == happened.sum(), f"{name} rose by {rise} where {happened.sum()} slots did it")
        for name, cause in (("seeds_created", Op.GERMINATE), ("seeds_fossilized", Op.FOSSILIZE)):
            done = events[name].sum() == (executed and op == cause)
            self.require(done, f"{name} does not follow {self.describe(action)}")
        if executed and op == Op.GERMINATE:
            planted = observation["blueprint_index"][action[SLOT]]
            self.require(planted == action[BLUEPRINT], f"{self.describe(action)} planted blueprint {planted}")


def _require(held: bool, problem: str) -> None:
    # Not an assert statement, which python -O would remove.
    if not held:
        raise AssertionError(problem)


def _legal(was: Stage, now: Stage, rolled_back: bool) -> bool:
    """Is this one step along the legal table? A rollback may prune a seed that has just moved."""
    reach = {was, *LEGAL_TRANSITIONS[was]}
    return now in reach or (rolled_back and any(now in LEGAL_TRANSITIONS[stage] for stage in reach))


def _numbers(info: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Every value of info by name, those inside dicts and tuples with a dotted one."""
    for name, value in info.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, tuple):
            yield from _numbers({str(i): part for i, part in enumerate(value)}, f"{prefix}{name}.")
        else:
            yield prefix + name, np.asarray(value)


def _difference(expected: Any, found: Any, path: str = "") -> str | None:
    """Where two outcomes differ by a bit, or None."""
    if isinstance(expected, Mapping):
        if expected.keys() != found.keys():
            return f" (at {path}: keys {sorted(expected.keys() ^ found.keys())})"
        pairs = [(f"{path}[{key!r}]", expected[key], found[key]) for key in expected]
    elif isinstance(expected, tuple):
        pairs = [(f"{path}[{i}]", a, b) for i, (a, b) in enumerate(zip(expected, found, strict=True))]
    else:
        same = np.array_equal(expected, found)
        return None if same else f" (at {path}: {expected} and {found})"
    return next((text for where, a, b in pairs if (text := _difference(a, b, where)) is not None), None)


def _outside(space: gymnasium.Space[Any], observation: Observation) -> str:
    parts = space.spaces if isinstance(space, gymnasium.spaces.Dict) else {}
    wrong = [name for name, part in parts.items() if name not in observation or not part.contains(observation[name])]
    return f" ({', '.join(wrong)})" if wrong else ""
