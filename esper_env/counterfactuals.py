"""What each seed is worth, from the values of coalitions of seeds.

A coalition is a bit mask: bit s says that slot s is on. Everything here is linear in the coalition values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import factorial

import numpy as np

from esper_env.arrays import Arrays, Bools, Floats, Ints
from esper_env.lifecycle.state import NEVER, Slots

MAX_EXACT_SLOTS = 5
"""Up to here all coalitions are evaluated; beyond, Shapley values come from sampled permutations."""
PERMUTATION_PAIRS = 8
VELOCITY_MEMORY = 0.7


@dataclass
class Plan:
    """The coalitions that must be evaluated, `masks [envs, M]`; a mask may occur more than once."""

    active: Bools
    everything: Ints
    """`[envs]`: the coalition of all active slots."""
    masks: Ints
    due: Bools
    """`[envs]`: where they are measured; elsewhere every mask is that of `everything`, which is free."""
    orders: Ints | None = None
    """`[envs, permutations, slots]`: sampled permutations, where there are more slots than can be exact."""
    exact: Bools | None = None
    """`[envs]`: which environments have so few active slots that they are exact nevertheless."""
    seats: Ints | None = None
    """`[envs, MAX_EXACT_SLOTS]`: their active slots."""

    def beside(self, fossilized: Bools) -> Ints:
        """All masks `[envs, 2 + M]`: the main network, the committed one, and what is planned."""
        return np.concatenate((self.everything[:, None], coalition(fossilized)[:, None], self.masks), 1)

    def lose(self, seeds: Bools) -> None:
        """Leave seeds out of everything. A new plan might draw from the generators of other environments."""
        self.active = self.active & ~seeds
        self.everything = coalition(self.active)
        self.masks = self.masks & self.everything[:, None]


@dataclass
class Measurement(Arrays):
    """Counterfactual metrics in points: `[envs, slots]`, and `[envs, slots, slots]` for the interactions."""

    contribution: Floats
    interaction: Floats
    shapley: Floats


@dataclass(frozen=True)
class _Columns:
    """Which columns of the coalition values the formulas need; they are the same in every environment."""

    bits: Ints
    """The coalition of each slot alone."""
    coalitions: Ints
    """The coalition of each column when every slot is active (the permutations' come after these)."""
    everything: int
    nothing: int
    leave_one_out: Ints
    pair: Ints
    first: Ints
    second: Ints
    """`[slots, slots]` each; the diagonal points at the empty coalition, which makes its interaction 0."""
    joined: Ints
    unjoined: Ints
    """`[slots, subsets of the others]`: the subset with and without the slot; empty when permutations are used."""
    weights: Floats
    """Share of the permutations in which the members of the subset come before the slot and the rest after."""


@cache
def _columns(num_slots: int) -> _Columns:
    slots = np.arange(num_slots)
    bits = 1 << slots
    exact = num_slots <= MAX_EXACT_SLOTS
    diagonal = np.eye(num_slots, dtype=bool)
    full = (1 << num_slots) - 1
    pairs = np.where(diagonal, 0, bits[:, None] | bits)
    upper = pairs[np.triu_indices(num_slots, 1)]
    sampled = np.concatenate(([0, full], full ^ bits, bits, upper))
    coalitions = np.arange(1 << num_slots) if exact else np.unique(sampled)

    def column(masks: Ints) -> Ints:
        return np.searchsorted(coalitions, masks)

    others = np.empty((num_slots, 0), np.int64)
    weights = np.empty(0)
    if exact:
        others = np.array([[m for m in range(1 << num_slots) if not m >> s & 1] for s in range(num_slots)])
        members = np.array([m.bit_count() for m in range(1 << (num_slots - 1))])
        arrangements = [factorial(k) * factorial(num_slots - 1 - k) for k in range(num_slots)]
        weights = np.array(arrangements)[members] / factorial(num_slots)
    return _Columns(
        bits=bits,
        coalitions=coalitions,
        everything=int(column(np.array(full))),
        nothing=0,
        leave_one_out=column(full ^ bits),
        pair=column(pairs),
        first=column(np.where(diagonal, 0, bits[:, None])),
        second=column(np.where(diagonal, 0, bits)),
        joined=column(others | bits[:, None]) if exact else others,
        unjoined=column(others),
        weights=weights,
    )


def coalitions(num_slots: int) -> Ints:
    """The coalitions whose values `info["coalition_score"]` holds, in its order.

    All subsets of the slots where they are few; otherwise nobody, everybody, everybody but one, one, and pairs.
    """
    return _columns(num_slots).coalitions


def coalition(members: Bools) -> Ints:
    """The bit mask of the slots in `members [envs, slots]`."""
    return np.asarray((members * _columns(members.shape[1]).bits).sum(1))


def plan(active: Bools, generators: Sequence[np.random.Generator], due: Bools | None = None) -> Plan:
    """The coalitions to evaluate for the slots that are `active [envs, slots]`, in environments that are `due` or all.

    With few slots these are all subsets. With more than `MAX_EXACT_SLOTS` they are all subsets of the active slots
    where these are few; elsewhere the environment's generator draws permutations, every one together with its
    reverse to cancel noise.
    """
    num_slots = active.shape[1]
    columns, everything = _columns(num_slots), coalition(active)
    if due is None:
        due = np.ones(len(active), bool)
    bits, present = columns.bits, everything[:, None]
    masks = columns.coalitions & present
    if num_slots <= MAX_EXACT_SLOTS:
        return Plan(active, everything, np.where(due[:, None], masks, present), due)
    identity = np.tile(np.arange(num_slots), (PERMUTATION_PAIRS, 1))
    few = active.sum(1) <= MAX_EXACT_SLOTS
    forward = np.stack(
        [identity if easy else draw.permuted(identity, axis=1) for easy, draw in zip(few, generators, strict=True)]
    )
    orders = np.concatenate((forward, forward[:, :, ::-1]), 1)
    # Where all is exact, the permutations repeat the whole, and the other way round: a mask seen before is free.
    prefixes = np.where(few[:, None], present, np.cumsum(bits[orders], 2).reshape(len(active), -1) & present)
    seats = np.argsort(~active, 1, kind="stable")[:, :MAX_EXACT_SLOTS]
    members = np.arange(1 << MAX_EXACT_SLOTS)[:, None] >> np.arange(MAX_EXACT_SLOTS) & 1
    subsets = np.where(few[:, None], (members @ bits[seats].T).T & present, present)
    masks = np.where(due[:, None], np.concatenate((masks, prefixes, subsets), 1), present)
    return Plan(active, everything, masks, due, orders, few, seats)


def measure(plan: Plan, values: Floats) -> Measurement:
    """Contributions, interactions and Shapley values, given `values[env, m]` of the coalitions `plan.masks[env, m]`.

    All are sums of differences of values, so that a slot that changes nothing gets exactly 0.
    """
    active = plan.active
    envs, num_slots = active.shape
    if not active.any():
        return Measurement(np.zeros(active.shape), np.zeros((envs, num_slots, num_slots)), np.zeros(active.shape))
    columns = _columns(num_slots)
    contribution = (values[:, columns.everything, None] - values.take(columns.leave_one_out, 1)) * active
    together = values.take(columns.pair, 1) + values[:, columns.nothing, None, None]
    apart = values.take(columns.first, 1) + values.take(columns.second, 1)
    interaction = (together - apart) * (active[:, :, None] & active[:, None, :])
    if plan.orders is None or plan.exact is None or plan.seats is None:
        gained = values.take(columns.joined, 1) - values.take(columns.unjoined, 1)
        shapley = (gained * columns.weights).sum(2)
    else:
        sampled = _sampled_shapley(plan.orders, values, columns)
        shapley = np.where(plan.exact[:, None], _seated_shapley(plan.seats, values, num_slots), sampled)
    return Measurement(contribution, interaction, shapley * active)


def _sampled_shapley(orders: Ints, values: Floats, columns: _Columns) -> Floats:
    first = len(columns.coalitions)
    prefixes = values[:, first : first + orders[0].size].reshape(orders.shape)
    empty = np.broadcast_to(values[:, columns.nothing, None, None], (*orders.shape[:2], 1))
    gained = np.diff(prefixes, axis=2, prepend=empty)
    place_of_slot = orders.argsort(2)
    return np.asarray(np.take_along_axis(gained, place_of_slot, 2).mean(1))


def _seated_shapley(seats: Ints, values: Floats, num_slots: int) -> Floats:
    """The exact formula over the few active slots, whose subsets are the last columns."""
    columns = _columns(MAX_EXACT_SLOTS)
    subsets = values[:, -(1 << MAX_EXACT_SLOTS) :]
    gained = subsets.take(columns.joined, 1) - subsets.take(columns.unjoined, 1)
    shapley = np.zeros((len(values), num_slots))
    np.put_along_axis(shapley, seats, (gained * columns.weights).sum(2), 1)
    return shapley


def record(slots: Slots, measurement: Measurement, active: Bools, measured_envs: Bools, epoch: Ints) -> None:
    """Write the metrics of the seeds that were measured in this epoch; all others keep what they have."""
    fresh = active & measured_envs[:, None]
    if not fresh.any():
        return
    contribution, interaction = measurement.contribution, measurement.interaction
    change = (1 - VELOCITY_MEMORY) * (contribution - slots.contribution)
    velocity = np.where(slots.measured == NEVER, 0.0, VELOCITY_MEMORY * slots.contribution_velocity + change)
    slots.contribution_velocity = np.where(fresh, velocity, slots.contribution_velocity)
    slots.contribution = np.where(fresh, contribution, slots.contribution)
    slots.interaction_sum = np.where(fresh, interaction.sum(2), slots.interaction_sum)
    # The zero diagonal makes this max(0, ...).
    slots.boost_received = np.where(fresh, interaction.max(2), slots.boost_received)
    slots.shapley = np.where(fresh, measurement.shapley, slots.shapley)
    slots.measured = np.where(fresh, epoch[:, None], slots.measured)
