import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_agent.policies.distribution import OP, SLOT, ActionLayout
from esper_env.actions import ACTION_HEADS, CAUSAL_MASK, HEAD_INDEX, HEAD_NAMES, Op, head_sizes
from tests.agent.observations import mask_tensors, random_legality

SLOTS, BLUEPRINTS = 2, 3
SIZES = head_sizes(SLOTS, BLUEPRINTS)
JOINT = torch.tensor(list(itertools.product(*(range(n) for n in SIZES))))

seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=15, deadline=None)


def small_case(seed, mixing=None, scale=2.0, by_slot=False):
    """A single state of a small environment: its distribution, and the joint probability of every action."""
    rng = np.random.default_rng(seed)
    masks = mask_tensors(random_legality(rng, 1, SLOTS), BLUEPRINTS)
    logits = torch.from_numpy(
        rng.normal(scale=scale, size=(1, sum(SIZES) + by_slot * SLOTS * BLUEPRINTS)).astype(np.float32)
    )
    layout = ActionLayout(SLOTS, BLUEPRINTS, mixing)
    distribution = layout(logits, masks["action_mask"], masks["slot_by_op"])
    every = layout(
        logits.expand(len(JOINT), -1),
        masks["action_mask"].expand(len(JOINT), -1),
        masks["slot_by_op"].expand(len(JOINT), -1),
    )
    distinct = (every.canonicalise(JOINT) == JOINT).all(-1)
    p = torch.where(distinct, every.log_prob(JOINT).double().sum(-1).exp(), 0.0)
    return distribution, p, masks


def given_choice(op, slot, head):
    """Where enumerated actions have this op and, unless the head is the slot itself, this slot."""
    return (JOINT[:, OP] == op) & ((JOINT[:, SLOT] == slot) | (head == SLOT))


def nats(p):
    p = p[p > 0]
    return float(-(p * p.log()).sum())


@few
@given(seed=seeds, epsilon=st.sampled_from([0.0, 0.01]), by_slot=st.booleans())
def test_probabilities_of_the_whole_joint_space_sum_to_one(seed, epsilon, by_slot):
    _, p, _ = small_case(seed, dict.fromkeys(HEAD_NAMES, epsilon), by_slot=by_slot)
    assert float(p.sum()) == pytest.approx(1, abs=1e-5)


@few
@given(seed=seeds, by_slot=st.booleans())
def test_only_legal_actions_have_probability(seed, by_slot):
    _, p, masks = small_case(seed, by_slot=by_slot)
    possible = JOINT[p > 0]
    rows = masks["slot_by_op"].reshape(len(Op), SLOTS)
    relevant = torch.from_numpy(CAUSAL_MASK)[possible[:, OP]]
    starts = np.cumsum((0, *SIZES[:-1]))
    assert rows[possible[:, OP], possible[:, SLOT]].all()
    for i, start in enumerate(starts):
        assert masks["action_mask"][0, start + possible[relevant[:, i], i]].all()


@few
@given(seed=seeds, epsilon=st.sampled_from([0.0, 0.02]), by_slot=st.booleans())
def test_joint_entropy_agrees_with_enumeration(seed, epsilon, by_slot):
    distribution, p, _ = small_case(seed, dict.fromkeys(HEAD_NAMES, epsilon), by_slot=by_slot)
    assert distribution.entropy().item() == pytest.approx(nats(p), abs=1e-4)


@few
@given(seed=seeds, by_slot=st.booleans())
def test_head_entropies_agree_with_enumeration_given_the_op_and_the_slot(seed, by_slot):
    distribution, p, masks = small_case(seed, by_slot=by_slot)
    starts = np.cumsum((0, *SIZES[:-1]))
    for action in JOINT[p > 0][:, [SLOT, OP]].unique(dim=0):
        slot, op = action.tolist()
        action = torch.zeros(1, 8, dtype=torch.int64)
        action[0, SLOT], action[0, OP] = slot, op
        entropy = distribution.head_entropy(action)[0]
        for i, name in enumerate(HEAD_NAMES):
            if name == "op":
                chosen, count = p, int(masks["action_mask"][0, starts[OP] : starts[OP] + len(Op)].sum())
            else:
                chosen = torch.where(given_choice(op, slot, i), p, 0.0)
                flat = masks["action_mask"][0, starts[i] : starts[i] + SIZES[i]]
                row = masks["slot_by_op"].reshape(len(Op), SLOTS)[op]
                count = int((row if name == "slot" else flat).sum())
            marginal = torch.zeros(SIZES[i], dtype=torch.float64).index_add(0, JOINT[:, i], chosen)
            expected = nats(marginal / marginal.sum()) / np.log(count) if count > 1 and CAUSAL_MASK[op, i] else 0.0
            assert entropy[i].item() == pytest.approx(expected, abs=1e-4), (name, Op(op))


@few
@given(seed=seeds, by_slot=st.booleans())
def test_freedom_is_lost_by_the_divergence_from_a_beginner(seed, by_slot):
    rng = np.random.default_rng(seed)
    bias = {
        h.name: dict(zip(h.choices, rng.normal(size=h.size), strict=True)) for h in ACTION_HEADS if h.name != "slot"
    }
    logits = torch.from_numpy(rng.normal(size=(1, 41 + by_slot * 39)).astype(np.float32))
    masks = mask_tensors(random_legality(rng, 1, 3), 13)
    layout = ActionLayout(3, 13, None, bias)
    distribution = layout(logits, masks["action_mask"], masks["slot_by_op"])
    beginner = layout(
        torch.cat([torch.zeros(3), *(torch.tensor(list(bias[h.name].values())) for h in ACTION_HEADS[1:])])[None],
        masks["action_mask"],
        masks["slot_by_op"],
    )
    action = distribution.sample(torch.Generator().manual_seed(seed % 1000))
    own, legal = distribution.choices(action)
    divergence = beginner.divergence(own, action)[0]
    free, most = distribution.head_freedom(action)[0], beginner.head_freedom(action)[0]
    for head in range(8):
        count = int(legal[0, head].sum())
        if count > 1 and CAUSAL_MASK[action[0, OP], head]:
            assert free[head].item() == pytest.approx((most[head] - divergence[head] / np.log(count)).item(), abs=1e-4)
        else:
            assert free[head] == most[head] == 0
    even = ActionLayout(3, 13)(logits, masks["action_mask"], masks["slot_by_op"])
    assert torch.equal(even.head_freedom(action), even.head_entropy(action))


@few
@given(seed=seeds)
def test_entropy_of_a_blueprint_without_an_action_is_averaged_over_the_slots_that_would_be_planted(seed):
    distribution, _, _ = small_case(seed, by_slot=True)
    drawn = torch.zeros(SLOTS, 8, dtype=torch.int64)
    drawn[:, SLOT], drawn[:, OP] = torch.arange(SLOTS), Op.GERMINATE
    slots = distribution.choices(drawn[:1])[0][0, SLOT, :SLOTS]
    entropies = torch.stack([distribution.head_entropy(action[None])[0, HEAD_INDEX["blueprint"]] for action in drawn])
    found = distribution.head_entropy()[0, HEAD_INDEX["blueprint"]]
    assert found.item() == pytest.approx((slots * entropies).sum().item(), abs=1e-5)


@few
@given(seed=seeds, epsilon=st.sampled_from([0.0, 0.02]), by_slot=st.booleans())
def test_divergence_agrees_with_enumeration_of_the_op_and_of_the_heads_given_it(seed, epsilon, by_slot):
    mine, q, masks = small_case(seed, dict.fromkeys(HEAD_NAMES, epsilon), by_slot=by_slot)
    layout = ActionLayout(SLOTS, BLUEPRINTS)
    size = sum(SIZES) + by_slot * SLOTS * BLUEPRINTS
    logits = torch.randn(1, size, generator=torch.Generator().manual_seed(seed))
    other = layout(logits, masks["action_mask"], masks["slot_by_op"])
    p = torch.zeros(len(JOINT), dtype=torch.float64)
    possible = q > 0
    every = layout(*[t.expand(len(JOINT), -1) for t in (logits, masks["action_mask"], masks["slot_by_op"])])
    p[possible] = every.log_prob(JOINT).double().sum(-1).exp()[possible]
    for drawn in JOINT[possible].unique(dim=0).split(1)[::7]:
        slot, op = drawn[0, SLOT].item(), drawn[0, OP].item()
        found = mine.divergence(other.choices(drawn)[0], drawn)[0]
        for i in range(8):
            where = torch.ones_like(possible) if i == OP else given_choice(op, slot, i)
            old, new = (torch.zeros(SIZES[i], dtype=torch.float64).index_add(0, JOINT[:, i], x * where) for x in (p, q))
            old, new = old / old.sum(), new / new.sum()
            terms = torch.where(old > 0, old * (old.clamp_min(1e-300) / new.clamp_min(1e-300)).log(), 0.0)
            expected = float(terms.sum()) if CAUSAL_MASK[op, i] else 0.0
            assert found[i].item() == pytest.approx(expected, abs=1e-4), (HEAD_NAMES[i], Op(op))


@few
@given(seed=seeds, by_slot=st.booleans())
def test_mode_is_the_likeliest_op_then_the_likeliest_slot_and_the_likeliest_rest_given_both(seed, by_slot):
    distribution, p, _ = small_case(seed, by_slot=by_slot)
    for head in (OP, SLOT):
        by_choice = torch.zeros(SIZES[head], dtype=torch.float64).index_add(0, JOINT[:, head], p)
        p = torch.where(JOINT[:, head] == by_choice.argmax(), p, 0.0)
    assert distribution.mode()[0].tolist() == JOINT[p.argmax()].tolist()


def sharpened(p, temperature):
    """The op in proportion to p^(1 / temperature), likewise the slot given the op, and the other heads given both."""
    found, group = (p > 0).double(), torch.zeros(len(JOINT), dtype=torch.int64)
    for finer in (JOINT[:, OP], JOINT[:, OP] * SLOTS + JOINT[:, SLOT], torch.arange(len(JOINT))):
        mass = torch.zeros(len(JOINT), dtype=torch.float64).index_add(0, finer, p)
        within = torch.zeros_like(group).index_copy(0, finer, group)  # which coarser group a finer one belongs to
        sharp = mass ** (1 / temperature)
        whole = torch.zeros_like(mass).index_add(0, within, sharp)
        found, group = found * (sharp / whole[within])[finer], finer
    return torch.where(p > 0, found, 0.0)


@pytest.mark.parametrize("by_slot", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_draws_have_the_enumerated_probabilities(temperature, by_slot):
    _, p, masks = small_case(7, scale=1.0, by_slot=by_slot)
    p = sharpened(p, temperature)
    draws = 40_000
    many = ActionLayout(SLOTS, BLUEPRINTS)(
        torch.from_numpy(_logits_of(7, 1.0, by_slot)).expand(draws, -1),
        masks["action_mask"].expand(draws, -1),
        masks["slot_by_op"].expand(draws, -1),
    ).sample(torch.Generator().manual_seed(0), temperature)
    code = torch.zeros(draws, dtype=torch.int64)
    for i, size in enumerate(SIZES):
        code = code * size + many[:, i]
    frequency = code.bincount(minlength=len(JOINT)).double() / draws
    assert (frequency[p == 0] == 0).all()
    assert float((frequency - p).abs().sum()) < 2 * float((p / draws).sqrt().sum())


def _logits_of(seed, scale, by_slot):
    rng = np.random.default_rng(seed)
    random_legality(rng, 1, SLOTS)
    return rng.normal(scale=scale, size=(1, sum(SIZES) + by_slot * SLOTS * BLUEPRINTS)).astype(np.float32)


def full_case(legal_ops, slots=3, **kwargs):
    legal = np.zeros((1, len(Op), slots), bool)
    for op, allowed in legal_ops.items():
        legal[0, op, allowed] = True
    legal[0, Op.WAIT] = True
    masks = mask_tensors(legal, 13)
    layout = ActionLayout(slots, 13, kwargs.get("mixing"))
    logits = kwargs.get("logits", torch.zeros(1, layout.num_choices))
    return layout(logits, masks["action_mask"], masks["slot_by_op"])


def test_heads_that_do_not_matter_are_canonical_with_log_probability_exactly_zero():
    distribution = full_case({Op.GERMINATE: [1, 2], Op.PRUNE: [2]})
    canonical = [head.canonical for head in ACTION_HEADS]
    canonical[SLOT] = 1  # the lowest slot that any op may touch
    for op in (Op.WAIT, Op.GERMINATE, Op.PRUNE):
        stored = torch.tensor([[2, 5, 1, 0, 0, 3, 4, op]])
        irrelevant = ~CAUSAL_MASK[op]
        assert (distribution.log_prob(stored)[0][irrelevant] == 0).all()
        assert (distribution.head_entropy(stored)[0][irrelevant] == 0).all()
        rewritten = distribution.canonicalise(stored)[0]
        assert rewritten[irrelevant].tolist() == np.array(canonical)[irrelevant].tolist()
        assert rewritten[~irrelevant].tolist() == stored[0][~irrelevant].tolist()


def test_a_value_outside_a_head_that_does_not_matter_is_harmless():
    distribution = full_case({Op.GERMINATE: [0]}, logits=torch.zeros(1, 41 + 39))
    stored = torch.tensor([[9, 99, 9, 9, 9, 9, 9, Op.WAIT]])
    assert distribution.log_prob(stored)[0, :OP].abs().sum() == 0


def test_slot_is_drawn_under_the_row_of_the_drawn_op():
    distribution = full_case({Op.GERMINATE: [2], Op.PRUNE: [0, 1]}, logits=torch.zeros(1, 41))
    generator = torch.Generator().manual_seed(1)
    allowed = {Op.WAIT: {0}, Op.GERMINATE: {2}, Op.PRUNE: {0, 1}}
    for _ in range(100):
        action = distribution.sample(generator)[0]
        assert int(action[SLOT]) in allowed[Op(int(action[OP]))]


@pytest.mark.parametrize("choices", [41, 41 + 39])
def test_uniform_mixing_keeps_every_valid_choice_alive_and_leaves_gradient_there(choices):
    logits = torch.zeros(1, choices)
    logits[0, 40] = 60.0
    logits.requires_grad_()
    mixing = dict.fromkeys(HEAD_NAMES, 0.01)
    distribution = full_case({Op.GERMINATE: [0, 1, 2], Op.ADVANCE: [0]}, logits=logits, mixing=mixing)
    p = distribution.op_log_probs.exp()[0]
    assert p[[Op.WAIT, Op.GERMINATE]].tolist() == pytest.approx([0.01, 0.01])
    assert p[Op.ADVANCE].item() == pytest.approx(0.98)
    action = torch.tensor([[0, 1, 0, 0, 0, 0, 0, Op.GERMINATE]])
    (distribution.log_prob(action).sum() + distribution.entropy().sum()).backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("choices", [41, 41 + 39])
@pytest.mark.parametrize("scale", [1e3, 1e6])
def test_extreme_logits_never_make_an_illegal_choice_or_a_gradient_that_is_not_finite(scale, choices):
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(1, choices, generator=generator) * scale).requires_grad_()
    distribution = full_case({Op.GERMINATE: [1]}, logits=logits)
    action = distribution.sample(generator)
    assert int(action[0, OP]) in (Op.WAIT, Op.GERMINATE)
    assert int(distribution.mode()[0, OP]) in (Op.WAIT, Op.GERMINATE)
    (distribution.log_prob(action).sum() + distribution.entropy().sum()).backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("choices", [41, 41 + 39])
def test_bfloat16_logits_give_float32_log_probabilities_and_entropies(choices):
    logits = torch.randn(1, choices).bfloat16()
    coarse, fine = (full_case({Op.GERMINATE: [0, 1, 2]}, logits=x) for x in (logits, logits.float()))
    action = coarse.sample()
    assert action.dtype == torch.int64
    for name, arguments in (("log_prob", (action,)), ("head_entropy", (action,)), ("entropy", ())):
        got = getattr(coarse, name)(*arguments)
        assert got.dtype == torch.float32
        # A type can be had by rounding first and converting then; the digits cannot.
        assert torch.equal(got, getattr(fine, name)(*arguments))


def test_a_blueprint_is_drawn_for_the_slot_it_goes_to():
    by_slot = torch.zeros(3, 13)
    by_slot[[0, 1, 2], [4, 7, 2]] = 50.0
    logits = torch.cat([torch.zeros(41), by_slot.flatten()])[None]
    distribution = full_case({Op.GERMINATE: [0, 1, 2]}, logits=logits)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([distribution.sample(generator) for _ in range(200)])
    planted = drawn[drawn[:, OP] == Op.GERMINATE]
    assert planted[:, SLOT].unique().tolist() == [0, 1, 2]
    assert (planted[:, HEAD_INDEX["blueprint"]] == torch.tensor([4, 7, 2])[planted[:, SLOT]]).all()


@pytest.mark.parametrize("head", ["tempo", "blueprint", "op"])
def test_a_head_without_legal_value_is_named(head):
    layout = ActionLayout(3, 13)
    sizes = head_sizes(3, 13)
    start = sum(sizes[: HEAD_INDEX[head]])
    mask = torch.ones(4, 41, dtype=torch.int8)
    mask[2, start : start + sizes[HEAD_INDEX[head]]] = 0
    with pytest.raises(ValueError, match=f"no legal value in head {head}:"):
        layout(torch.zeros(4, 41), mask, torch.ones(4, 18))


def test_an_op_without_legal_slot_is_named():
    slot_by_op = torch.ones(6, 3)
    slot_by_op[Op.PRUNE] = 0
    with pytest.raises(ValueError, match=r"slot \(given PRUNE\)"):
        ActionLayout(3, 13)(torch.zeros(1, 41), torch.ones(1, 41), slot_by_op.reshape(1, 18))


def test_masks_of_another_environment_are_refused():
    with pytest.raises(ValueError, match=r"action_mask has 43 entries, this policy needs 41 \(3 slots\)"):
        ActionLayout(3, 13)(torch.zeros(1, 41), torch.ones(1, 43), torch.ones(1, 30))


def test_a_head_could_matter_where_some_legal_op_needs_it():
    could = full_case({Op.PRUNE: [0]}).could_matter()[0]
    named = {name for name, yes in zip(HEAD_NAMES, could.tolist(), strict=True) if yes}
    assert named == {"slot", "alpha_speed", "alpha_curve", "op"}
