"""Tiny stories from a grammar, for language hosts: no download, any amount, and their entropy is known."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from esper_env.tasks.data import Dataset, Split, windows

RULES: dict[str, tuple[str, ...]] = {
    "story": (
        "{opening} {journey} {find} {wish} {trouble} {help} {ending}\n",
        "{opening} {find} {wish} {ending}\n",
        "{opening} {journey} {meeting} {find} {trouble} {help} {ending}\n",
    ),
    "opening": (
        "one day {hero} the {animal} woke up early.",
        "once there was a {nature} {animal} named {hero}.",
        "{hero} was a {nature} {animal}.",
        "in a {place} lived {hero} the {nature} {animal}.",
    ),
    "journey": (
        "{he} went to the {place}.",
        "{he} walked to the {place} and it was {weather}.",
        "it was {weather}, so {hero} ran to the {place}.",
    ),
    "meeting": (
        "there {he} met {friend}.",
        '"hello {hero}!" said {friend}.',
    ),
    "find": (
        "{he} found a {look} {thing}.",
        "in the {place} {he} saw a {look} {thing}.",
        "{hero} looked up and saw a {thing}.",
    ),
    "wish": (
        '"i want this {thing}" said {hero}.',
        "{hero} wanted to keep the {look} {thing}.",
        '"what a {look} {thing}!" said the {animal}.',
    ),
    "trouble": (
        "but the {thing} was too {problem}.",
        "then the {thing} fell into the {place}.",
        "but {friend} took the {thing} away.",
    ),
    "help": (
        "{friend} came to help the {animal}.",
        '"can you help me, {friend}" said {hero}.',
        "so {hero} and {friend} carried the {thing} home.",
    ),
    "ending": (
        "{hero} was {mood}.",
        "the {animal} was {mood} and went home.",
        "{hero} and the {thing} lived in the {place}.",
        "at night {he} dreamed of the {thing}.",
    ),
    "hero": ("tim", "sam", "ben", "max", "lily", "mia", "anna", "sue"),
    "friend": ("mom", "dad", "grandma", "the old owl", "a kind bird", "the king"),
    "animal": ("cat", "dog", "fox", "bear", "mouse", "rabbit", "duck", "frog"),
    "nature": ("small", "brave", "happy", "lazy", "quiet", "funny"),
    "place": ("forest", "river", "garden", "big house", "park", "village", "cave"),
    "weather": ("sunny", "raining", "very cold", "windy"),
    "thing": ("ball", "red hat", "kite", "box", "golden key", "drum", "apple", "jewel", "boat"),
    "look": ("shiny", "big", "soft", "strange", "pretty", "tiny"),
    "problem": ("heavy", "high", "far away", "loud", "cold"),
    "mood": ("happy", "glad", "proud", "very tired", "not sad any more"),
}
"""What each symbol in braces may become, all with the same probability."""
REMEMBERED = ("hero", "friend", "animal", "place", "thing", "look")
"""What stays the same all through a story: this is what attention is for."""
PRONOUNS = dict.fromkeys(("tim", "sam", "ben", "max"), "he") | dict.fromkeys(("lily", "mia", "anna", "sue"), "she")
ALPHABET = '\n !",.abcdefghijklmnopqrstuvwxyz'
"""The bytes of all stories; a token is a place in it."""

_SYMBOL = re.compile(r"\{(\w+)\}")
_TOKEN_OF_BYTE = np.zeros(256, np.uint8)
_TOKEN_OF_BYTE[np.frombuffer(ALPHABET.encode(), np.uint8)] = np.arange(len(ALPHABET))


def tell(choose: Callable[[int], int]) -> tuple[str, float]:
    """A story and its surprise in nats; `choose(n)` picks one of n."""
    memory: dict[str, str] = {}
    surprise = 0.0

    def expand(symbol: str) -> str:
        nonlocal surprise
        if symbol == "he":
            return PRONOUNS[memory["hero"]]
        if symbol in memory:
            return memory[symbol]
        options = RULES[symbol]
        surprise += math.log(len(options))
        text = _SYMBOL.sub(lambda match: expand(match[1]), options[choose(len(options))])
        if symbol in REMEMBERED:
            memory[symbol] = text
        return text

    story = expand("story")
    return story, surprise


def encode(text: str) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """The tokens of a text."""
    return _TOKEN_OF_BYTE[np.frombuffer(text.encode(), np.uint8)]


def decode(tokens: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> str:
    """The text of tokens."""
    return "".join(ALPHABET[token] for token in tokens)


@dataclass(frozen=True)
class StoryGrammar:
    """Stories of the grammar one after the other, a new collection for every seed."""

    length: int = 64
    train: int = 768
    val: int = 48
    test: int = 96
    """Texts of `length` tokens in each split."""
    generated: bool = True

    def load(self, rng: np.random.Generator | None = None) -> Dataset:
        """A fresh collection drawn from `rng`."""
        rng = np.random.default_rng(0) if rng is None else rng
        return Dataset(*(self._draw(texts, rng) for texts in (self.train, self.val, self.test)))

    def _draw(self, texts: int, rng: np.random.Generator) -> Split:
        needed, told, length = texts * self.length + 1, [], 0
        while length < needed:
            draws = iter(rng.random(64))
            told.append(tell(lambda n, draws=draws: int(next(draws) * n))[0])  # type: ignore[misc]
            length += len(told[-1])
        return windows(encode("".join(told))[:needed], self.length)
