import json
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.reports import table, write_json
from benchmarks.throughput.figures import Bar, Figure, interleave, ratio
from benchmarks.throughput.imports import children
from benchmarks.throughput.memory import resident
from benchmarks.throughput.states import MIXES, blending, suited_blueprints
from esper_env.lifecycle.stages import Stage


class Clock:
    """A clock that moves only when work is done."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def work(self, seconds, units):
        def work():
            self.now += seconds
            return units

        return work


def test_sides_take_turns_and_the_first_round_does_not_count():
    clock, order = Clock(), []
    sides = {name: lambda name=name: order.append(name) or 1 for name in ("a", "b")}
    seconds = interleave(sides, 2, clock)
    assert order == ["a", "b"] * 3
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


def test_a_ratio_is_per_unit_of_work():
    clock = Clock()
    figure = ratio("speed", {"slow": clock.work(3.0, 1), "fast": clock.work(2.0, 4)}, 3, Bar(5), clock)
    assert figure.value == pytest.approx(6.0)
    assert figure.detail == pytest.approx({"ms slow": 3000.0, "ms fast": 500.0})
    assert figure.as_row()["met"]


def test_a_side_that_is_to_settle_runs_once_uncounted_before_every_time_it_counts():
    clock, order = Clock(), []

    def side(name):
        def work():
            order.append(name)
            clock.now += 1.0 if order[-2:] == [name, name] else 5.0  # it comes back slowly from the other's turn
            return 1

        return work

    seconds = interleave({name: side(name) for name in "ab"}, 2, clock, settled=True)
    assert order == ["a", "a", "b", "b"] * 3
    assert {name: found.tolist() for name, found in seconds.items()} == {"a": [1.0, 1.0], "b": [1.0, 1.0]}


def test_a_bar_may_be_a_floor_or_a_ceiling():
    assert Bar(2).met(2.0)
    assert not Bar(2).met(1.9)
    assert Bar(2, at_least=False).met(1.9)
    assert not Bar(2, at_least=False).met(2.1)


def test_results_survive_json_and_line_up(tmp_path):
    figure = Figure("name", "ms", np.array([1.0, 2.0, 4.0]), Bar(3, at_least=False))
    write_json(tmp_path / "sub" / "file.json", "test", {}, [figure.as_row()])
    (row,) = json.loads((tmp_path / "sub" / "file.json").read_text())["rows"]
    assert (row["value"], row["quartiles"], row["bar"], row["met"]) == (2.0, [1.5, 3.0], "≤ 3", True)
    lines = table(["a", "b"], [["long name", "1"], ["x", "22"]]).splitlines()
    assert len({len(line) for line in lines}) == 1


def test_the_mixes_hold_every_blueprint_once_in_every_slot():
    for slot in range(3):
        assert sorted(mix[slot] for mix in MIXES) == sorted(suited_blueprints("cnn"))


def test_the_blending_state_holds_the_seeds_that_were_asked_for():
    simulation = blending(4, [["conv_light"]], active=(0b111, 0b010))
    blends = simulation.slots.stage == Stage.BLENDING
    np.testing.assert_array_equal(blends, [[True] * 3, [False, True, False]] * 2)
    np.testing.assert_allclose(simulation.alpha(), 0.5 * blends)


def test_resident_memory_is_no_more_than_its_peak():
    assert 10 < resident() <= resident("VmHWM")


def test_the_clock_of_children_moves_when_a_process_ends_and_at_no_other_time():
    begun = children()
    sorted(range(10**6))
    assert children() == begun
    subprocess.run([sys.executable, "-c", "sorted(range(10**6))"], check=True)
    assert children() > begun
