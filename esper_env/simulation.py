"""The simulation: any number of hosts, one step at a time. Both environment classes are shells over it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from esper_env import counterfactuals, observation, reward, scaffolding, signals
from esper_env.actions import Actions, Algorithm, Op, blueprint_names, decode
from esper_env.arrays import Arrays, Bools, Floats, Ints, places
from esper_env.config import EnvConfig
from esper_env.growth.governor import Governor, snapshot_due, watch
from esper_env.growth.optimizer import Rates
from esper_env.growth.population import Growth, Population
from esper_env.growth.training import SlotState
from esper_env.lifecycle import alpha as schedules
from esper_env.lifecycle.alpha import Ramps
from esper_env.lifecycle.legality import advanceable, legality, permitted
from esper_env.lifecycle.stages import BLENDED, COOLDOWN, FOSSIL, LEARNING, LIVE, PRESENT
from esper_env.lifecycle.state import Slots
from esper_env.lifecycle.transitions import Events, advance, apply_ops, prune, tick
from esper_env.masks import Masks, masks
from esper_env.network.blueprints import module_tables
from esper_env.network.export import GrownNetwork
from esper_env.reward import Terms
from esper_env.streams import Streams
from esper_env.tasks import Task

MAIN, COMMITTED = 0, 1
FIXED = 2
"""The first columns of the coalition values are the main network and the committed one."""
UNMEASURED = -1.0
"""Stands for the score of a coalition in an epoch that measures none."""


@dataclass
class Counters(Arrays):
    """What an episode has come to, `[envs]`; the last step's outcome beside the running totals."""

    created: Ints
    fossilized: Ints
    pruned: Ints
    flops: Floats
    committed: Floats
    committed_accuracy: Floats
    test_accuracy: Floats
    objective: Floats
    executed: Bools
    rolled_back: Bools

    @classmethod
    def zero(cls, envs: int) -> Counters:
        """The counters of episodes that have not begun."""
        return cls(
            created=np.zeros(envs, np.int64),
            fossilized=np.zeros(envs, np.int64),
            pruned=np.zeros(envs, np.int64),
            flops=np.zeros(envs),
            committed=np.zeros(envs),
            committed_accuracy=np.zeros(envs),
            test_accuracy=np.full(envs, -1.0),
            objective=np.zeros(envs),
            executed=np.ones(envs, bool),
            rolled_back=np.zeros(envs, bool),
        )


@dataclass
class Outcome:
    """What a step gives back, besides what can be asked of the simulation at any time."""

    reward: Floats
    terms: Terms
    terminated: Bools
    events: Events


@dataclass
class _Known:
    """What has been derived from the present state, anew whenever a schedule, a stage or the clock changes.

    The mask of one step is the permission of the next.
    """

    ramps: Ramps | None = None
    moment: reward.Moment | None = None
    legal: Bools | None = None


class Simulation:
    """Hosts of one task, stepped together.

    Args:
        config: the resolved configuration.
        task: its task.
        envs: how many hosts.
        chunk: hosts per stacked network; chosen by the cache when None.
        threads: stacks run at the same time.
    """

    def __init__(self, config: EnvConfig, task: Task, envs: int, *, chunk: int | None = None, threads: int = 1) -> None:
        self.config, self.task, self.envs = config, task.at(config.data_dir, config.download), envs
        self.num_slots = config.num_slots
        self.blueprints = blueprint_names()
        self.plantable: Bools = np.array([name in config.blueprints for name in self.blueprints])
        training = config.training
        self.rates = Rates.of(training)
        self.population = Population(
            task.host,
            envs,
            chunk=chunk,
            threads=threads,
            device=config.device,
            batch_size=training.batch_size or task.batch_size,
            generated=task.source.generated,
        )
        measured = {*config.blueprints, task.budget_blueprint}
        self._sizes, self._macs, self._gate_sizes = module_tables(task.host, self.blueprints, measured)
        # Where the blueprints of each slot begin in these tables. What an empty slot finds there is not used.
        self._row = np.arange(self.num_slots) * len(self.blueprints)
        self.budget = float(sum(self._sizes[:, self.blueprints.index(task.budget_blueprint)]))
        self.host_params = int(self.population.stacks[0].trunk.value.shape[1])
        self.slots = Slots.dormant(envs, self.num_slots)
        self._known = _Known()
        nothing = np.zeros(envs)
        self.signals = signals.Signals.start(nothing, nothing, nothing)
        self.ledger = scaffolding.Ledger.start(nothing, self.num_slots)
        self.governor = Governor.fresh(envs)
        self.counters = Counters.zero(envs)
        self.streams = [Streams.of(0) for _ in range(envs)]
        self.terms: Terms = {name: np.zeros(envs) for name in self._term_names()}
        self.coalition_score: Floats = np.full((envs, len(counterfactuals.coalitions(self.num_slots))), UNMEASURED)
        self._loaded: list[int | None] = [None] * envs
        self._host_macs = sum(task.host.macs_by_level())

    # Episodes

    def reset(self, envs: Bools, seeds: Sequence[int]) -> None:
        """Begin new episodes in the environments under `envs`, one seed each: fresh hosts, validated untrained."""
        count = int(envs.sum())
        if not count:
            return
        for env, seed in zip(np.flatnonzero(envs).tolist(), seeds, strict=True):
            streams = self.streams[env] = Streams.of(seed)
            self.population.build_host(env, streams.host())
            self._load_data(env)
        self.slots.put(envs, Slots.dormant(count, self.num_slots))
        self.governor.put(envs, Governor.fresh(count))
        self.counters.put(envs, Counters.zero(count))
        self._known = _Known()
        nothing = np.zeros((count, 1), np.int64)
        loss, accuracy, flops = self._evaluate(envs, nothing)
        score = self.task.score(loss[:, 0], accuracy[:, 0])
        self.signals.put(envs, signals.Signals.start(loss[:, 0], accuracy[:, 0], score))
        self.ledger.put(envs, scaffolding.Ledger.start(score, self.num_slots))
        self.counters.flops[envs] = flops
        self.counters.committed[envs] = score
        self.coalition_score[envs] = score[:, None]
        self.counters.committed_accuracy[envs] = accuracy[:, 0]
        self.terms = {name: np.where(envs, 0.0, term) for name, term in self.terms.items()}

    def _term_names(self) -> list[str]:
        moment, no = self._moment(), np.zeros(self.envs, bool)
        still = reward.Transition(
            before=moment,
            after=moment,
            trained_alpha=moment.alpha,
            trained_params=moment.params,
            trained_algorithm=moment.algorithm,
            op=np.zeros(self.envs, np.int64),
            slot=np.zeros(self.envs, np.int64),
            rolled_back=no,
            terminated=no,
            hindsight=np.zeros(self.envs),
            max_epochs=self.config.max_epochs,
            budget=self.budget,
        )
        return reward.term_names(still, self.config.reward)

    def _load_data(self, env: int) -> None:
        """Put an environment's data in its place, unless it is there already: that of its seed, or that of all."""
        streams, source = self.streams[env], self.task.source
        there = self._loaded[env] == streams.seed if source.generated else self.population.holds_data(env)
        if not there:
            data = self.task.load(streams.data() if source.generated else None)
            self.population.put_data(env, data, self.config.training.val_samples)
            self._loaded[env] = streams.seed

    # The step

    def step(self, vectors: Ints) -> Outcome:
        """One epoch of every host under one action each, `[envs, 8]`."""
        actions, executed = self._decide(vectors)
        before, cooling = self._known.moment or self._moment(), COOLDOWN.take(self.slots.stage)
        self._known = _Known()
        events = self._act(actions, executed)
        self._tick(events, cooling)
        alpha, params, algorithm = self._ramps().alpha, self.slots.params.copy(), self.slots.algorithm.copy()
        growth, plan = self._grow()
        self._govern(growth, plan, events)
        terminated = self._end()
        hindsight = self._account(growth, plan, events, actions, executed, terminated)
        self._known.moment = after = self._moment()
        transition = reward.Transition(
            before=before,
            after=after,
            trained_alpha=alpha,
            trained_params=params,
            trained_algorithm=algorithm,
            op=np.where(executed, actions.op, int(Op.WAIT)),
            slot=actions.slot,
            rolled_back=self.counters.rolled_back,
            terminated=terminated,
            hindsight=hindsight,
            max_epochs=self.config.max_epochs,
            budget=self.budget,
        )
        self.terms = reward.terms(transition, self.config.reward)
        self.counters.objective = reward.objective(transition, self.config.reward, self.terms)
        return Outcome(reward.total(self.terms), self.terms, terminated, events)

    def _decide(self, vectors: Ints) -> tuple[Actions, Bools]:
        actions = decode(vectors, self.num_slots, len(self.blueprints))
        allowed = permitted(self.legality(), actions.op, actions.slot, actions.blueprint, self.plantable)
        return actions, allowed & actions.in_space

    def _act(self, actions: Actions, executed: Bools) -> Events:
        """Apply the ops to the lifecycle, and build the modules that they ask for."""
        epoch, accuracy, config = self.signals.epoch, self.signals.accuracy, self.config.lifecycle
        ready = advanceable(self.slots, epoch, accuracy, config) if config.auto_advance else None
        events = apply_ops(self.slots, epoch, accuracy, actions, executed)
        if ready is not None:
            advance(self.slots, ready & advanceable(self.slots, epoch, accuracy, config), epoch, accuracy)
        self._build(events.germinated, events.germinated | events.switched)
        if events.fossilized.any():
            made_permanent, calm = np.asarray(events.fossilized.any(1)), self.governor.diverging == 0
            self.population.snapshot(made_permanent & calm, FOSSIL.take(self.slots.stage))
            # A host that may be on its way out keeps the snapshot of a better time.
            self.population.snapshot(made_permanent & ~calm, events.fossilized, hosts=False)
        return events

    def _build(self, planted: Bools, blended_anew: Bools) -> None:
        slots = self.slots
        if not blended_anew.any():
            return
        for env, slot in places(planted):
            rng = self.streams[env].planting(slot, int(slots.plantings[env, slot]))
            self.population.plant(env, slot, self.blueprints[slots.blueprint[env, slot]], rng)
        gated = slots.algorithm == Algorithm.GATE
        for env, slot in places(blended_anew & gated):
            rng = self.streams[env].gate(slot, int(slots.plantings[env, slot]))
            self.population.build_gate(env, slot, rng)
        sizes = self._sizes.take(self._row + slots.blueprint) + np.where(gated, self._gate_sizes, 0)
        slots.params = np.where(PRESENT.take(slots.stage), sizes, 0)

    def _tick(self, events: Events, cooling: Bools) -> None:
        self.signals.epoch = self.signals.epoch + 1
        arrived = tick(self.slots, self.signals.epoch, self.signals.accuracy, cooling, self.config.lifecycle)
        events.pruned = events.pruned | arrived
        self._free(events.pruned)

    def _grow(self) -> tuple[Growth, counterfactuals.Plan]:
        """Train one epoch, then evaluate the main network, the committed one, and the coalitions that are due."""
        slots, epoch, ramps = self.slots, self.signals.epoch, self._ramps()
        due = np.asarray(epoch % self.config.counterfactual_interval == 0)
        plan = counterfactuals.plan(BLENDED.take(slots.stage), [streams.sampling for streams in self.streams], due)
        task, training = self.task, self.config.training
        state = SlotState(
            stage=slots.stage,
            alpha=ramps.alpha,
            algorithm=slots.algorithm,
            updated=~schedules.pruning(slots, epoch, ramps),
            fossil=FOSSIL.take(slots.stage),
        )
        order = [self._order(streams) for streams in self.streams]
        views = [task.host.views(s.order, len(order[0])) for s in self.streams] if task.augment else None
        macs = self._macs.take(self._row + slots.blueprint) * LEARNING.take(slots.stage)
        macs = self._host_macs + macs.sum(1)
        growth = self.population.grow(state, order, plan.beside(state.fossil), self.rates, training.proximal, views)
        growth.flops += 6.0 * macs * len(order[0])  # forward, and backward twice as much; two flops a MAC
        found = growth.gradients
        slots.put_gradients(found.measured, found.norm, found.health, found.vanishing, found.exploding)
        return growth, plan

    def _order(self, streams: Streams) -> Ints:
        order = streams.order.permutation(self.train_samples)
        batches, size = self.config.training.batches_per_epoch, self.config.training.batch_size
        if batches is None or size is None:
            return order
        return np.resize(order, batches * size)

    @property
    def train_samples(self) -> int:
        """Samples in the training split."""
        return int(self.population.data[0].tensors["train"][1].shape[1])

    def _govern(self, growth: Growth, plan: counterfactuals.Plan, events: Events) -> None:
        """Watch over the hosts; a lost one returns to its snapshot and loses its live seeds."""
        panic = watch(self.governor, growth.loss[:, MAIN], growth.finite, self.task.chance_loss)
        fossilized = FOSSIL.take(self.slots.stage)
        self.counters.rolled_back = panic
        if panic.any():
            doomed = LIVE[self.slots.stage] & panic[:, None]
            self.population.restore(panic, fossilized)
            prune(self.slots, doomed, self.signals.accuracy, clock=1)
            self._free(doomed)
            self._known = _Known()
            events.pruned = events.pruned | doomed
            plan.lose(doomed)
            loss, accuracy, flops = self._evaluate(panic, plan.beside(fossilized)[panic])
            growth.loss[panic], growth.accuracy[panic] = loss, accuracy
            growth.flops[panic] += flops
        due = snapshot_due(self.governor)
        if due.any():
            self.population.snapshot(due, fossilized)

    def _end(self) -> Bools:
        over = self.signals.epoch >= self.config.max_epochs
        if self.config.on_panic == "terminate":
            over = over | self.counters.rolled_back
        return np.asarray(over)

    def _account(
        self,
        growth: Growth,
        plan: counterfactuals.Plan,
        events: Events,
        actions: Actions,
        executed: Bools,
        terminated: Bools,
    ) -> Floats:
        """Bring signals, metrics, counters and ledger up to date; returns the hindsight earned."""
        score = self.task.score(growth.loss, growth.accuracy)
        signals.update(self.signals, growth.train_loss, growth.loss[:, MAIN], growth.accuracy[:, MAIN], score[:, MAIN])
        self.signals.last_op, self.signals.last_success = actions.op, executed
        measurement = counterfactuals.measure(plan, score[:, FIXED:])
        told = score[:, FIXED : FIXED + self.coalition_score.shape[1]]
        self.coalition_score = np.where(plan.due[:, None], told, UNMEASURED)
        counterfactuals.record(self.slots, measurement, plan.active, plan.due, self.signals.epoch)
        counters = self.counters
        happened = np.array((events.germinated, events.fossilized, events.pruned))
        if happened.any():
            created, fossilized, pruned = happened.sum(2)
            counters.created = counters.created + created
            counters.fossilized = counters.fossilized + fossilized
            counters.pruned = counters.pruned + pruned
        counters.flops = counters.flops + growth.flops
        counters.committed = score[:, COMMITTED]
        counters.committed_accuracy = growth.accuracy[:, COMMITTED]
        counters.executed = executed
        if terminated.any():
            self._test(terminated)
        return scaffolding.settle(
            self.ledger,
            fossilized=events.fossilized,
            emptied=events.pruned,
            committed=counters.committed,
            interaction=measurement.interaction,
            shapley=measurement.shapley,
            measured=plan.due,
            config=self.config.reward,
        )

    def _test(self, envs: Bools) -> None:
        """The final report: the committed network on the test split."""
        committed = counterfactuals.coalition(FOSSIL.take(self.slots.stage[envs]))
        _, accuracy, _ = self._evaluate(envs, committed[:, None], "test")
        self.counters.test_accuracy[envs] = accuracy[:, 0]

    def _evaluate(self, envs: Bools, wanted: Ints, split: str = "val") -> tuple[Floats, Floats, Floats]:
        alpha = schedules.alpha(self.slots, self.signals.epoch)
        return self.population.evaluate(envs, wanted, alpha, self.slots.algorithm, split)

    def _free(self, pruned: Bools) -> None:
        for env, slot in places(pruned):
            self.population.free(env, slot)

    # What can be asked at any time

    def alpha(self) -> Floats:
        """Alpha in force, `[envs, slots]`."""
        return self._ramps().alpha.copy()

    def _ramps(self) -> Ramps:
        if self._known.ramps is None:
            self._known.ramps = Ramps.at(self.slots, self.signals.epoch)
            self._known.ramps.alpha.setflags(write=False)  # whoever sees it in a transition sees what is in force
        return self._known.ramps

    def legality(self) -> Bools:
        """`legal[env, op, slot]` of the present state, to read only."""
        if self._known.legal is None:
            epoch, accuracy, config = self.signals.epoch, self.signals.accuracy, self.config.lifecycle
            self._known.legal = legality(self.slots, epoch, accuracy, self.plantable, config, self._ramps())
            self._known.legal.setflags(write=False)  # the next step decides by this very array
        return self._known.legal

    def masks(self) -> Masks:
        """Action masks of the present state."""
        return masks(self.legality(), self.plantable)

    def features(self) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        """Features of the present state, `[envs, features]`."""
        return observation.encode(
            self.signals, self.slots, max_epochs=self.config.max_epochs, budget=self.budget, ramps=self._ramps()
        )

    def export_host(self, env: int) -> GrownNetwork:
        """The committed network of one environment as an independent module."""
        network, local = self.population.home(env)
        return GrownNetwork(network, local, FOSSIL.take(self.slots.stage[env]), self.slots.algorithm[env])

    def _moment(self) -> reward.Moment:
        slots = self.slots
        return reward.Moment(
            score=self.signals.score,
            committed=self.counters.committed,
            stage=slots.stage.copy(),
            shapley=slots.shapley.copy(),
            alpha=self._ramps().alpha,
            algorithm=slots.algorithm.copy(),
            params=slots.params.copy(),
            age=slots.age.copy(),
        )

    # State

    _EVOLVING = ("slots", "signals", "ledger", "governor", "counters", "streams", "terms", "coalition_score")

    def parts(self) -> dict[str, Any]:
        """Everything that evolves, as it is here: to look at."""
        return {name: getattr(self, name) for name in self._EVOLVING} | {"networks": self.population.stacks}

    def get_state(self) -> dict[str, Any]:
        """Everything that evolves, as an independent copy."""
        return copy.deepcopy(self.parts())

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a state taken from a simulation of the same configuration and size."""
        state = copy.deepcopy(state)
        self._known = _Known()
        for name in self._EVOLVING:
            setattr(self, name, state[name])
        self.population.stacks = state["networks"]
        for env in range(self.envs):
            self._load_data(env)
