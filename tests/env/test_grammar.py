"""The stories of the grammar: who is in them stays who they are, and how much they say is known."""

import math
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_env.tasks import TASKS
from esper_env.tasks.grammar import ALPHABET, REMEMBERED, RULES, StoryGrammar, decode, encode, tell

SPLITS = ("train", "val", "test")
PAGE = Path(__file__).parents[2] / "docs" / "tasks" / "story_grammar.md"
SEEDS = st.integers(0, 2**32 - 1)


def told(seed):
    """A story, its surprise, and among how many each choice was."""
    rng, asked = np.random.default_rng(seed), []

    def choose(options):
        asked.append(options)
        return int(rng.integers(options))

    return *tell(choose), asked


def pattern(symbol="story"):
    """What a symbol may become, as a regular expression that remembers nothing."""
    if symbol == "he":
        return "(?:he|she)"
    ways = [re.split(r"\{(\w+)\}", rule) for rule in RULES[symbol]]
    spelled = ["".join(pattern(part) if odd % 2 else re.escape(part) for odd, part in enumerate(way)) for way in ways]
    return f"(?:{'|'.join(spelled)})"


STORY = re.compile(pattern())


def named(symbol, story):
    """Which of a symbol's words are in a story."""
    return {word for word in RULES[symbol] if re.search(rf"\b{word}\b", story)}


@given(SEEDS)
def test_a_story_follows_the_rules_and_everything_in_it_stays_what_it_is(seed):
    story, _, _ = told(seed)
    assert STORY.fullmatch(story)
    for symbol in ("hero", "friend", "animal", "place", "thing"):
        assert len(named(symbol, story)) <= 1, story
    elsewhere = story.replace("big house", "")
    assert len(named("look", elsewhere)) <= 1, story
    pronouns = set(re.findall(r"\bs?he\b", story))
    (hero,) = named("hero", story) or {None}
    assert not hero or pronouns <= {"he" if hero in ("tim", "sam", "ben", "max") else "she"}


def test_what_is_remembered_has_no_parts_that_could_differ():
    assert not any("{" in word for symbol in REMEMBERED for word in RULES[symbol])


@given(SEEDS)
def test_the_surprise_of_a_story_is_that_of_its_choices(seed):
    _, surprise, asked = told(seed)
    assert surprise == pytest.approx(sum(map(math.log, asked)))


def test_every_word_is_told_and_every_byte_of_the_alphabet_is_needed():
    stories = "".join(told(seed)[0] for seed in range(600))
    words = [word for symbol, rules in RULES.items() for word in rules if "{" not in word]
    assert [word for word in words if word not in stories] == []
    assert set(stories) == set(ALPHABET)
    assert len(ALPHABET) == len(set(ALPHABET))


@given(SEEDS)
def test_tokens_decode_to_the_story(seed):
    story, _, _ = told(seed)
    tokens = encode(story)
    assert len(tokens) == len(story)
    assert decode(tokens) == story


def test_the_page_says_how_much_a_story_carries_and_what_it_is_made_of():
    stories = [told(seed) for seed in range(1500)]
    per_byte = sum(surprise for _, surprise, _ in stories) / sum(len(story) for story, _, _ in stories)
    page = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert f"A story carries {per_byte:.2f} nats per byte" in page
    assert f"one of the {len(ALPHABET)} bytes" in page
    (example,) = re.findall(r"begins like this: \*(.+?)\*", page)
    assert re.match(pattern("opening"), example)
    assert all(len(named(symbol, example)) == 1 for symbol in ("hero", "animal", "place", "thing", "look"))


def test_texts_are_whole_stories_one_after_the_other_and_every_label_is_what_follows():
    data = StoryGrammar(length=32, train=60, val=12, test=20).load(np.random.default_rng(0))
    assert [getattr(data, name).inputs.shape for name in SPLITS] == [(60, 32), (12, 32), (20, 32)]
    for name in SPLITS:
        split = getattr(data, name)
        stream = [*split.inputs.ravel(), split.labels[-1, -1]]
        np.testing.assert_array_equal(split.labels.ravel(), stream[1:])
        *whole, last = decode(np.array(stream)).splitlines(keepends=True)
        assert whole
        assert all(STORY.fullmatch(story) for story in whole)
        assert last


def test_every_seed_tells_its_own_stories_and_so_does_every_split():
    one, same, other = (StoryGrammar().load(np.random.default_rng(seed)) for seed in (3, 3, 4))
    for name in SPLITS:
        a, b, c = (getattr(data, name).inputs for data in (one, same, other))
        np.testing.assert_array_equal(a, b)
        assert (a != c).any()
    texts = [{text.tobytes() for text in getattr(one, name).inputs} for name in SPLITS]
    for a, b in pairwise([*texts, texts[0]]):  # the same sentences may meet at the same place, but seldom
        assert len(a & b) <= min(len(a), len(b)) // 20
    assert TASKS["story_grammar"].host.classes == len(ALPHABET)
