"""The menu of a person who plays: what is legal now, what is done unless said otherwise, and what words mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

import numpy as np
import numpy.typing as npt

from esper_env.actions import CAUSAL_HEADS, HEAD_INDEX, HEAD_NAMES, STYLE_ALGORITHM, Head, Op, Style, action_heads
from esper_env.masks import head_slices
from esper_env.observation import BASE_FEATURES, SLOT_FEATURES

WIDTH = 80
MEANING = {
    Op.WAIT: "train an epoch; 9 trains nine, or until there is news",
    Op.GERMINATE: "plant a seed in slot {}",
    Op.SET_ALPHA_TARGET: "take alpha elsewhere in slot {}",
    Op.PRUNE: "remove the seed in slot {}",
    Op.FOSSILIZE: "make the seed in slot {} permanent",
    Op.ADVANCE: "move the seed in slot {} to its next stage",
}
ORDER = (Op.WAIT, Op.GERMINATE, Op.ADVANCE, Op.FOSSILIZE, Op.SET_ALPHA_TARGET, Op.PRUNE)
"""As the menu shows them: along the life of a seed."""
FAVOURITES = {(Op.GERMINATE, "blueprint"): "conv_light", (Op.SET_ALPHA_TARGET, "alpha_speed"): "MEDIUM"}
"""What a person most likely means where that is not the canonical value."""
HELP = "Say an op and only what is to differ from its default in [brackets], in any order and shortened: g 2 norm slow"


class RefusalError(ValueError):
    """Words that make no legal action; the message says why, and what would."""


@dataclass(frozen=True)
class Menu:
    """The legal actions of one state."""

    observation: Mapping[str, npt.NDArray[Any]]
    num_slots: int

    @property
    def heads(self) -> dict[str, Head]:
        """The action heads by name."""
        return dict(zip(HEAD_NAMES, action_heads(self.num_slots), strict=True))

    @property
    def legal(self) -> dict[Op, tuple[int, ...]]:
        """The slots on which each op is legal, for ops that are legal at all; none for WAIT."""
        rows = self.observation["slot_by_op"].reshape(len(Op), self.num_slots)
        allowed = self._allowed("op")
        return {
            op: () if op == Op.WAIT else tuple(np.flatnonzero(rows[op]).tolist()) for op in ORDER if op.name in allowed
        }

    def _allowed(self, head: str) -> tuple[str, ...]:
        """Choices of a head that its mask allows."""
        spans = head_slices(self.num_slots, self.heads["blueprint"].size)
        mask = self.observation["action_mask"][spans[head]]
        return tuple(choice for choice, valid in zip(self.heads[head].choices, mask, strict=True) if valid)

    def choices(self, op: Op, head: str) -> tuple[str, ...]:
        """What may be chosen in a head that matters for an op."""
        return tuple(map(str, self.legal[op])) if head == "slot" else self._allowed(head)

    def default(self, op: Op, head: str, slot: int) -> str:
        """What is chosen unless it is said; a seed keeps its way of blending."""
        allowed = self.choices(op, head)
        if head == "style" and op == Op.SET_ALPHA_TARGET:
            styles = [style for style in (Style.SIGMOID_ADD, *Style) if STYLE_ALGORITHM[style] == self._algorithm(slot)]
            return str(styles[0].name)
        favourite = FAVOURITES.get((op, head), self.heads[head].choices[self.heads[head].canonical])
        return favourite if favourite in allowed else allowed[0]

    def _algorithm(self, slot: int) -> int:
        column = next(i for i, feature in enumerate(SLOT_FEATURES) if feature.name == "algorithm")
        slots = self.observation["features"][len(BASE_FEATURES) :].reshape(self.num_slots, -1)
        return round(2 * float(slots[slot, column]))

    def lines(self) -> list[str]:
        """A line per legal op."""
        lines = []
        for op, slots in self.legal.items():
            key = "Enter" if op == Op.WAIT else op.name[0].lower()
            lines.append(f"  {key:<6}{op.name:<17}{MEANING[op].format(_either(slots))}")
        return [*lines, f"  {'?':<6}{'all choices':<17}q to leave"]

    def explain(self) -> list[str]:
        """Every choice there is now, the defaults in brackets."""
        lines = wrap(HELP, WIDTH)
        for op, slots in self.legal.items():
            for head in CAUSAL_HEADS[op]:
                usual = self.default(op, head, slots[0])
                shown = [f"[{choice}]" if choice == usual else choice for choice in self.choices(op, head)]
                label = f"{op.name if head == 'slot' else '':<18}{head:<14}"
                lines += wrap(" ".join(shown).lower(), WIDTH, initial_indent=label, subsequent_indent=" " * len(label))
        return lines

    def action(self, line: str) -> list[int]:
        """The action that the words ask for.

        Raises:
            RefusalError: when they ask for none, or for one that is not legal.
        """
        first, *rest = line.split() or ["wait"]
        op = self._op(first)
        said: dict[str, str] = {}
        for word in rest:
            head, choice = self._choice(op, word)
            if head in said:
                raise RefusalError(f"{word!r} is a second {head} beside {said[head].lower()}: say one.")
            said[head] = choice
        slot = int(said.get("slot", self.legal[op][0] if self.legal[op] else 0))
        vector = []
        for name, layout in self.heads.items():
            choice = said.get(name) or (self.default(op, name, slot) if name in CAUSAL_HEADS[op] else "")
            vector.append(layout.choices.index(choice) if choice else layout.canonical)
        vector[HEAD_INDEX["op"]] = int(op)
        return vector

    def _op(self, word: str) -> Op:
        named = [op for op in Op if op.name.startswith(word.upper())]
        if not named:
            raise RefusalError(f"{word!r} is nothing to do here. Say {self._ops()}, a number, ? or q.")
        if named[0] not in self.legal:
            raise RefusalError(f"{named[0].name} is legal on no slot now. Say {self._ops()}.")
        return named[0]

    def _ops(self) -> str:
        return ", ".join(op.name.lower() for op in self.legal)

    def _choice(self, op: Op, word: str) -> tuple[str, str]:
        """The head and the choice that a word stands for: its whole name, or a beginning that only one has."""
        heads = CAUSAL_HEADS[op]
        if not heads:
            raise RefusalError(f"{op.name} takes no further words, such as {word!r}. To wait longer, say a number.")
        meant = word.upper()
        pairs = [(head, choice) for head in heads for choice in self.choices(op, head)]
        found = [pair for pair in pairs if pair[1].upper() == meant]
        found = found or [pair for pair in pairs if pair[1].upper().startswith(meant)]
        if len(found) == 1:
            return found[0]
        if found:
            raise RefusalError(f"{word!r} could be {_either(choice.lower() for _, choice in found)}: say more of it.")
        if word.isdigit():
            raise RefusalError(f"{op.name} is legal on slot {_either(self.legal[op])}, not on {word}.")
        raise RefusalError(f"{word!r} is no choice of {op.name} now; ? shows all of them.")


def _either(things: Iterable[object]) -> str:
    """`1, 2 or 3`."""
    *most, last = map(str, [*things] or [""])
    return f"{', '.join(most)} or {last}" if most else last
