"""The distribution over actions: op, slot given the op, the others in parallel, the blueprint by slot or beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from esper_agent.config import indexed
from esper_env.actions import ACTION_HEADS, CAUSAL_MASK, HEAD_INDEX, HEAD_NAMES, Op, head_sizes
from esper_env.config import ConfigError

SLOT, BLUEPRINT, OP = HEAD_INDEX["slot"], HEAD_INDEX["blueprint"], HEAD_INDEX["op"]
(PLANTING,) = np.flatnonzero(CAUSAL_MASK[:, BLUEPRINT]).tolist()
"""The op that takes a blueprint."""

ILLEGAL = -1e9
"""Log-probability of an illegal choice: finite, so that 0 · log 0 is 0 in values and gradients."""


class ActionLayout(nn.Module):
    """Where each head's choices lie in flat logits and masks, held on the policy's device.

    Heads are padded to the widest one, so that all of them are normalised, drawn and scored at once.
    """

    index: Tensor
    inside: Tensor
    canonical: Tensor
    causal: Tensor
    mixing: Tensor
    first_bias: Tensor

    def __init__(
        self,
        num_slots: int,
        num_blueprints: int,
        uniform_mixing: Mapping[str, float] | None = None,
        first_bias: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        super().__init__()
        sizes = torch.tensor(head_sizes(num_slots, num_blueprints))
        choice = torch.arange(int(sizes.max()))
        starts = (sizes.cumsum(0) - sizes)[:, None]
        inside = choice < sizes[:, None]
        mixing = uniform_mixing or {}
        for name, size in zip(HEAD_NAMES, sizes.tolist(), strict=True):
            if mixing.get(name, 0.0) * size >= 1:
                raise ConfigError(f"uniform_mixing[{name!r}] must be below 1/{size}, got {mixing[name]}.")
        bias = torch.zeros(inside.shape)
        for head, place, logit in indexed(first_bias or {}):
            bias[HEAD_INDEX[head], place] = logit
        tables = {
            "first_bias": bias,
            "index": torch.where(inside, starts + choice, 0),
            "inside": inside,
            "canonical": torch.tensor([head.canonical for head in ACTION_HEADS]),
            "causal": torch.from_numpy(CAUSAL_MASK),
            "mixing": torch.tensor([[mixing.get(name, 0.0)] for name in HEAD_NAMES]),
        }
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)
        self.num_slots, self.num_blueprints = num_slots, num_blueprints
        self.num_choices = int(sizes.sum())
        self.mixes = any(mixing.values())

    def forward(self, logits: Tensor, action_mask: Tensor, slot_by_op: Tensor) -> FactoredDistribution:
        """The distribution for flat logits and masks `[..., choices]` and `slot_by_op` `[..., ops * slots]`.

        After their `choices` the logits may hold `slots * blueprints` more: what each slot adds to the blueprints'.
        """
        added = self.num_slots * self.num_blueprints
        for name, tensor, sizes in (
            ("logits", logits, (self.num_choices, self.num_choices + added)),
            ("action_mask", action_mask, (self.num_choices,)),
            ("slot_by_op", slot_by_op, (len(Op) * self.num_slots,)),
        ):
            if tensor.shape[-1] not in sizes:
                raise ValueError(
                    f"{name} has {tensor.shape[-1]} entries, this policy needs {' or '.join(map(str, sizes))} "
                    f"({self.num_slots} slots); was it created for another environment?"
                )
        logits, more = logits[..., : self.num_choices].float(), logits[..., self.num_choices :].float()
        return FactoredDistribution(
            self,
            logits[..., self.index],
            action_mask.bool()[..., self.index] & self.inside,
            slot_by_op.bool().reshape(*slot_by_op.shape[:-1], len(Op), self.num_slots),
            more.reshape(*more.shape[:-1], self.num_slots, self.num_blueprints) if more.shape[-1] else None,
        )

    def normalise(self, logits: Tensor, mask: Tensor, mixing: Tensor) -> Tensor:
        """Log-probabilities over the valid choices, mixed with the uniform distribution over them."""
        log_p = logits.masked_fill(~mask, -torch.inf).log_softmax(-1).masked_fill(~mask, ILLEGAL)
        if self.mixes:
            kept = torch.log1p(-mixing * mask.sum(-1, keepdim=True))
            log_p = torch.logaddexp(log_p + kept, mixing.log()).masked_fill(~mask, ILLEGAL)
        return log_p


class FactoredDistribution:
    """Distribution over action vectors `[..., 8]`, with log-probability and entropy per head.

    A head that does not matter for the op is not random: it holds its canonical value, with log-probability and
    entropy exactly 0, when drawn and when stored actions are scored. Everything is float32.
    """

    def __init__(
        self, layout: ActionLayout, logits: Tensor, mask: Tensor, slot_by_op: Tensor, by_slot: Tensor | None = None
    ) -> None:
        self._layout = layout
        self._logits = logits
        self._mask = mask
        self._slot_by_op = slot_by_op
        self._by_slot = by_slot
        self._require_choices()
        self.op_log_probs = layout.normalise(logits[..., OP, : len(Op)], mask[..., OP, : len(Op)], layout.mixing[OP])
        """`[..., ops]`"""

    def sample(self, generator: torch.Generator | None = None, temperature: float = 1.0) -> Tensor:
        """Draw actions `[..., 8]`; a choice of probability p is drawn in proportion to p^(1 / temperature)."""
        noise = torch.empty_like(self._logits).exponential_(generator=generator).log_()
        return self._choose(noise.mul_(temperature))

    def mode(self) -> Tensor:
        """The likeliest op, for it the likeliest slot, and for both the likeliest value of each head that matters."""
        return self._choose(torch.zeros_like(self._logits))

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-probability per head `[..., 8]`; their sum is the action's."""
        op = action[..., OP]
        log_probs, _ = self._given(action)
        chosen = log_probs.gather(-1, self.canonicalise(action).unsqueeze(-1)).squeeze(-1)
        return torch.where(self.matters(op), chosen, 0.0)

    def head_entropy(self, action: Tensor | None = None) -> Tensor:
        """Entropy per head over its valid choices, divided by its maximum, `[..., 8]`; 0 where only one is valid.

        Given an action, that of the heads which matter for its op, with the slot's under that op and the
        blueprint's in that slot. Without one, each head's own, whether or not it would come to matter; the
        blueprint's is averaged over the slots that would be planted.
        """
        if action is None:
            own = _relative_entropy(self._layout.normalise(self._logits, self._mask, self._layout.mixing), self._mask)
            own[..., BLUEPRINT] = self._over_slots(_relative_entropy)
            return own
        return torch.where(self.matters(action[..., OP]), _relative_entropy(*self._given(action)), 0.0)

    def head_freedom(self, action: Tensor) -> Tensor:
        """Entropy per head plus the mean of a beginner's logits, both divided by the largest entropy, `[..., 8]`.

        But for a constant that is minus the KL from the beginner's probabilities, so it is greatest there.
        """
        log_probs, legal = self._given(action)
        leaning = (log_probs.exp() * self._layout.first_bias).sum(-1) / legal.sum(-1).clamp_min(2).log()
        free = _relative_entropy(log_probs, legal) + torch.where(legal.sum(-1) > 1, leaning, 0.0)
        return torch.where(self.matters(action[..., OP]), free, 0.0)

    def choices(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """Probability and legality of every choice of each head, given the op and the slot of an action `[..., 8]`.

        Twice `[..., 8, widest]`. Those of the op are not conditioned, those of the slot on the op alone. What is
        illegal, or pads a head to the widest, has 0.
        """
        log_probs, legal = self._given(action)
        return log_probs.exp(), legal

    def divergence(self, probabilities: Tensor, action: Tensor) -> Tensor:
        """KL(probabilities, own) per head `[..., 8]`, given an action; 0 where the head does not matter for its op.

        Args:
            probabilities: those of every choice under another distribution, as `choices(action)` of it gives them.
            action: whose op and slot the heads are conditioned on, as in `choices`.
        """
        log_probs, legal = self._given(action)
        terms = torch.xlogy(probabilities, probabilities) - probabilities * log_probs
        return torch.where(self.matters(action[..., OP]), torch.where(legal, terms, 0.0).sum(-1), 0.0)

    def entropy(self) -> Tensor:
        """Entropy of the whole action `[...]` in nats: H(op) + Σ_op p(op) Σ_head H(head | op), blueprints by slot."""
        layout = self._layout
        per_head = _entropy(layout.normalise(self._logits, self._mask, layout.mixing))
        slot_given_op = _entropy(self._slots())
        per_head[..., BLUEPRINT] = self._over_slots(lambda log_probs, _: _entropy(log_probs))
        given_op = torch.where(layout.causal, per_head.unsqueeze(-2), 0.0)
        given_op[..., SLOT] = torch.where(layout.causal[:, SLOT], slot_given_op, 0.0)
        given_op[..., OP] = 0.0
        return per_head[..., OP] + (self.op_log_probs.exp() * given_op.sum(-1)).sum(-1)

    def canonicalise(self, action: Tensor) -> Tensor:
        """The action with every head that does not matter for its op at its canonical value."""
        canonical = self._layout.canonical.expand_as(action).clone()
        canonical[..., SLOT] = self._mask[..., SLOT, :].to(torch.uint8).argmax(-1)
        return torch.where(self.matters(action[..., OP]), action, canonical)

    def matters(self, op: Tensor) -> Tensor:
        """`[..., 8]`: does the head matter for this op?"""
        return self._layout.causal[op]

    def could_matter(self) -> Tensor:
        """`[..., 8]`: is there a legal op for which the head matters?"""
        legal = self._mask[..., OP, : len(Op)]
        return (legal.unsqueeze(-1) & self._layout.causal).any(-2)

    def could_choose(self, op: Tensor) -> Tensor:
        """`[..., 8]`: does the head matter for this op, with more than one value to choose from?"""
        return self.matters(op) & (self._mask_given(op).sum(-1) > 1)

    def _choose(self, noise: Tensor) -> Tensor:
        """Gumbel-max: the argmax of log p - log Exp(1) is a draw from p; without noise, it is the mode."""
        first = noise.new_zeros(noise.shape[:-1], dtype=torch.int64)
        first[..., OP] = op = (self.op_log_probs - noise[..., OP, : len(Op)]).argmax(-1)
        slots = self._slots().take_along_dim(op[..., None, None], -2).squeeze(-2)
        first[..., SLOT] = (slots - noise[..., SLOT, : self._layout.num_slots]).argmax(-1)
        action = (self._given(first)[0] - noise).argmax(-1)
        action[..., [SLOT, OP]] = first[..., [SLOT, OP]]
        return self.canonicalise(action)

    def _given(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """Padded log-probabilities and masks `[..., 8, widest]`, given the op and the slot of an action."""
        mask, logits = self._mask_given(action[..., OP]), self._logits
        if self._by_slot is not None:
            # Where the slot does not matter it may be anything, and so may what it adds.
            slot = action[..., SLOT, None, None].clamp(0, self._layout.num_slots - 1)
            logits = logits.clone()
            logits[..., BLUEPRINT, : self._layout.num_blueprints] += self._by_slot.take_along_dim(slot, -2).squeeze(-2)
        return self._layout.normalise(logits, mask, self._layout.mixing), mask

    def _slots(self) -> Tensor:
        """Log-probabilities of the slots given each op, `[..., ops, slots]`."""
        layout = self._layout
        logits = self._logits[..., SLOT, : layout.num_slots].unsqueeze(-2)
        return layout.normalise(logits, self._slot_by_op, layout.mixing[SLOT])

    def _over_slots(self, measure: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """A measure of the blueprints' log-probabilities and mask, averaged over the slots that would be planted."""
        count = self._layout.num_blueprints
        logits = self._logits[..., BLUEPRINT, :count].unsqueeze(-2)
        mask = self._mask[..., BLUEPRINT, :count].unsqueeze(-2)
        if self._by_slot is not None:
            logits = logits + self._by_slot
        measured = measure(self._layout.normalise(logits, mask, self._layout.mixing[BLUEPRINT]), mask)
        return (self._slots()[..., PLANTING, :].exp() * measured).sum(-1)

    def _mask_given(self, op: Tensor) -> Tensor:
        mask = self._mask.clone()
        mask[..., SLOT, : self._layout.num_slots] = self._slot_by_op.take_along_dim(op[..., None, None], -2).squeeze(-2)
        return mask

    def _require_choices(self) -> None:
        head_ok, row_ok = self._mask.any(-1), self._slot_by_op.any(-1)
        if bool(head_ok.all() & row_ok.all()):
            return
        heads = [HEAD_NAMES[i] for i in _columns_with_false(head_ok)]
        heads += [f"slot (given {Op(i).name})" for i in _columns_with_false(row_ok)]
        raise ValueError(
            f"no legal value in head {', '.join(heads)}: action_mask and slot_by_op must allow at least one value "
            "per head and per op, the canonical one where the head cannot matter (see esper_env.masks)."
        )


def _columns_with_false(table: Tensor) -> list[int]:
    return [i for i, ok in enumerate(table.flatten(0, -2).all(0).tolist()) if not ok]


def _entropy(log_probs: Tensor) -> Tensor:
    return -(log_probs.exp() * log_probs).sum(-1)


def _relative_entropy(log_probs: Tensor, mask: Tensor) -> Tensor:
    count = mask.sum(-1)
    return torch.where(count > 1, _entropy(log_probs) / count.clamp_min(2).log(), 0.0)
