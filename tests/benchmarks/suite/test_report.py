import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from benchmarks.suite import pictures, scaffold
from benchmarks.suite.claims import Outcome, gather, late_values, missing, outcomes
from benchmarks.suite.protocol import PROTOCOL, VERSION, Comparison, Contestant, Entry, Protocol
from benchmarks.suite.recordings import write_actions, write_episodes, write_table
from benchmarks.suite.report import learning_curves, write_report
from benchmarks.suite.results import CURVE_COLUMNS, read_agent, read_agents
from benchmarks.suite.static import Point, write_points
from benchmarks.suite.statistics import Interval, interquartile_mean
from esper_agent.evaluate import Episode
from esper_agent.files import write_json
from esper_env.config import ConfigError

SVG = "{http://www.w3.org/2000/svg}"
SEEDS = 20


def hand_in(results, name, accuracy, *, trainings=(-1,), params=1_000, flops=100.0, steps=0):
    """Results of an agent whose returns are a tenth of its accuracy."""
    rng = np.random.default_rng(len(name))
    rows = [
        Episode(name, "digits", training, 1_000_000 + i, value / 10, value / 12, value, params, flops, 50)
        for training in trainings
        for i, value in enumerate(rng.normal(accuracy, 1, SEEDS).tolist())
    ]
    write_episodes(results / name / "digits.csv", rows)
    runs = {str(t): {"steps": steps, "share_of_steps": 1.0, "settings": {}, "sessions": []} for t in trainings}
    write_json(results / name / "agent.json", {"agent": name, "protocol": VERSION, "runs": {"digits": runs}})
    if steps:
        curve = [
            {"training_seed": t, "steps": 100 * k, "episode/objective_return": 2 + k / 10 + t / 5}
            | {"entropy/blueprint": 0.3 if k > 36 else 0.0, "value/explained_variance": 0.4 if k > 36 else 1.0}
            | {"gradient_norm/op": 0.2 if k % 2 or k <= 36 else 0.001, "gradient_norm/total": 1.0}
            for t in trainings
            for k in range(1, 41)
        ]
        write_table(results / name / "digits.curves.csv.gz", CURVE_COLUMNS, curve)


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    hand_in(folder, "wait", 36.0, params=390)
    hand_in(folder, "random", 38.0, params=1_200)
    hand_in(folder, "lstm", 92.0, trainings=(0, 1), params=2_300, steps=200_000)
    hand_in(folder, "lstm-no-feedback", 90.0, trainings=(0,), params=2_300, steps=100_000)
    hand_in(folder, "lstm-128@0.5", 60.0, trainings=(0,), params=2_000, steps=50_000)
    hand_in(folder, "big", 80.0, params=3_500)
    points = [
        Point(1_000_000 + i, e, 30.0 * e, 60.0 + 10 * e, 5.0, 4.0, 3_500) for i in range(SEEDS) for e in (1, 2, 3, 4)
    ]
    write_points(folder / "big" / "digits.curve.csv.gz", points)
    return folder


TABLES = Protocol(
    tuple(Contestant(n, "baseline", "") for n in ("wait", "random", "lstm", "lstm-128", "lstm-no-feedback", "big")),
    (Entry("wait", "digits"), Entry("lstm", "digits", (0, 1, 2), 200_000), Entry("lstm-128", "digits", (0,), 100_000)),
    (
        Comparison("better", "lstm", ("wait", "big"), ("digits",), ("committed_test_accuracy",), "above"),
        Comparison("no worse", "random", ("lstm",), ("digits",), ("objective_return",), "not below"),
        Comparison("whatever", "lstm", ("lstm-128",), ("digits", "shapes"), ("objective_return",), "reported"),
    ),
    PROTOCOL.late,
    env={"digits": {}, "shapes": {}},
    episodes=SEEDS,
)


def test_claims_hold_are_missed_or_wait_for_their_runs(results):
    found = {(o.task, o.other): o for o in outcomes(gather(read_agents(results), TABLES), TABLES)}
    assert found["digits", "wait"].verdict == "holds so far"  # two of the three training seeds
    assert found["digits", "wait"].probability.value == 1.0
    assert found["digits", "wait"].difference.value == pytest.approx(92 - 36, abs=1)
    assert found["digits", "lstm"].verdict == "**missed** so far"
    assert found["digits", "lstm-128"].verdict == found["shapes", "lstm-128"].verdict == "not run yet"


@pytest.mark.parametrize(
    ("goal", "ours", "theirs", "verdict"),
    [
        ("above", (5, 4, 6), (3, 2, 3.9), "holds"),
        ("above", (5, 4, 6), (3, 2, 4), "**missed**"),
        ("above", (5, 4, 6), (3, 2, 4.5), "**missed**"),
        ("above", (3, 2, 3.9), (5, 4, 6), "**missed**"),
        ("not below", (5, 1, 9), (6, 5, 7), "holds"),
        ("not below", (5, 4.9, 5.1), (6, 5.1, 7), "**missed**"),
        ("reported", (5, 4, 6), (9, 8, 10), "reported"),
    ],
)
def test_a_goal_is_reached_as_its_words_say(goal, ours, theirs, verdict):
    comparison = Comparison("", "lstm", ("wait",), ("digits",), ("objective_return",), goal)
    outcome = Outcome(comparison, "digits", "objective_return", "wait", Interval(*ours), Interval(*theirs))
    assert outcome.verdict == verdict
    assert replace(outcome, whole=False).verdict == f"{verdict} so far"


def test_with_all_its_training_seeds_a_claim_simply_holds(results):
    hand_in(results, "lstm", 92.0, trainings=(0, 1, 2), params=2_300, steps=200_000)
    found = {(o.task, o.other): o for o in outcomes(gather(read_agents(results), TABLES), TABLES)}
    assert found["digits", "wait"].verdict == "holds"
    assert found["digits", "big"].verdict == "**missed**"


def test_big_is_compared_at_the_flops_of_the_agent(results):
    found = {(o.task, o.other): o for o in outcomes(gather(read_agents(results), TABLES), TABLES)}
    assert found["digits", "big"].theirs.value == 100.0  # 100 FLOP are reached in the fourth epoch, not the last row's
    assert found["digits", "big"].verdict == "**missed** so far"


def test_big_is_as_uncertain_as_its_networks_however_many_trainings_it_is_compared_with(results):
    accuracy = np.random.default_rng(3).normal(80, 2, SEEDS)
    points = [Point(1_000_000 + i, 1, 100.0, a, 5.0, 4.0, 3_500) for i, a in enumerate(accuracy.tolist())]
    write_points(results / "big" / "digits.curve.csv.gz", points)
    hand_in(results, "lstm", 92.0, trainings=(0, 1, 2), params=2_300, steps=200_000)
    found = {(o.task, o.other): o for o in outcomes(gather(read_agents(results), TABLES), TABLES)}
    theirs, alone = found["digits", "big"].theirs, interquartile_mean([accuracy])
    assert theirs.value == pytest.approx(stats.trim_mean(np.tile(accuracy, 3), 0.25))
    assert theirs.high - theirs.low == pytest.approx(alone.high - alone.low, rel=0.2)


def test_a_normalised_score_is_the_share_of_the_way_from_wait_to_big(results):
    field = gather(read_agents(results), TABLES)["digits"]
    wait = np.mean([row.committed_test_accuracy for row in field.rows["wait"]])
    ours = np.mean([row.committed_test_accuracy for row in field.rows["lstm"]])
    assert field.normalised("lstm") == pytest.approx((ours - wait) / (100.0 - wait))
    assert field.normalised("wait") == pytest.approx(0.0)
    field.rows["wait"] = [replace(row, committed_test_accuracy=99.0) for row in field.rows["wait"]]
    assert field.normalised("lstm") is None


def test_who_spends_more_than_the_longest_training_of_big_is_marked(results, tmp_path):
    hand_in(results, "planner", 92.0, flops=1e6)
    field = gather(read_agents(results), TABLES)["digits"]
    assert field.outspending("planner") == SEEDS
    assert field.outspending("lstm") == 0
    write_report(results, tmp_path / "page.md", TABLES)
    (row,) = [line for line in (tmp_path / "page.md").read_text().splitlines() if line.startswith("| `planner` |")]
    assert row.endswith(f" ({SEEDS}) |")


def test_results_of_another_version_of_the_protocol_are_not_put_beside_these(results, tmp_path):
    manifest = json.loads((results / "random" / "agent.json").read_text())
    write_json(results / "random" / "agent.json", manifest | {"protocol": VERSION - 1})
    page = tmp_path / "page.md"
    with pytest.raises(ConfigError, match=f"random holds results of version {VERSION - 1} of the protocol"):
        write_report(results, page, TABLES)
    assert not page.exists()


def test_what_is_late_in_training_is_the_last_tenth_of_each_run(results):
    entropy, alive, variance = (late_values(read_agent(results / "lstm"), "digits", late) for late in TABLES.late)
    assert entropy == pytest.approx([0.3, 0.3])
    assert alive == pytest.approx([0.5, 0.5])
    assert variance == pytest.approx([0.4, 0.4])


def test_late_goals_are_held_against_the_mean_and_the_page_says_which_are_missed(results, tmp_path):
    write_report(results, tmp_path / "page.md", TABLES)
    lines = [line.split(" | ")[2:] for line in (tmp_path / "page.md").read_text().splitlines() if "| > " in line]
    assert lines == [
        ["digits", "0.30", "0.30, 0.30", "> 0.1", "holds so far |"],
        ["digits", "0.50", "0.50, 0.50", "> 0.8", "**missed** so far |"],
        ["digits", "0.40", "0.40, 0.40", "> 0.5", "**missed** so far |"],
    ]


def test_a_row_of_the_page_is_what_its_title_says(results, tmp_path):
    rows = read_agent(results / "lstm").episodes("digits")
    returns, accuracies = (
        np.array([getattr(row, name) for row in rows]) for name in ("objective_return", "committed_test_accuracy")
    )
    write_report(results, tmp_path / "page.md", TABLES)
    lines = [line.strip("| ").split(" | ") for line in (tmp_path / "page.md").read_text().splitlines()]
    (head,) = [line for line in lines if line[:2] == ["agent", "training steps"]]
    row = dict(zip(head, next(line for line in lines if line[0] == "`lstm`" and len(line) == len(head)), strict=True))
    assert row["training steps"] == "200,000"
    assert row["objective return"].startswith(f"{stats.trim_mean(returns, 0.25):.2f} [")
    assert row["means"] == ", ".join(f"{half.mean():.2f}" for half in np.split(returns, 2))
    assert row["test accuracy, %"].startswith(f"{stats.trim_mean(accuracies, 0.25):.1f} [")
    assert (row["parameters"], row["GFLOP"], row["epochs"]) == ("2,300", "0.00", "50")
    wait = np.mean([episode.committed_test_accuracy for episode in read_agent(results / "wait").episodes("digits")])
    assert row["normalised"] == f"{(accuracies.mean() - wait) / (100 - wait):.2f}"


def test_a_point_of_a_learning_curve_is_the_mean_of_five_updates(results):
    curves = learning_curves(gather(read_agents(results), TABLES)["digits"], ["lstm", "wait"])
    means = [[(100.0 * k, 2 + (k - 2) / 10 + seed / 5) for k in range(5, 41, 5)] for seed in (0, 1)]
    assert curves.keys() == {"lstm"}
    np.testing.assert_allclose(curves["lstm"], means)


def test_trainings_with_too_few_episodes_do_not_count(results):
    fields = gather(read_agents(results), TABLES)
    assert missing(fields, replace(TABLES, episodes=SEEDS + 1))["lstm", "digits"] == (0, 3)


def test_an_agent_whose_episodes_are_not_whole_is_named(results):
    path = results / "lstm" / "digits.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(ConfigError, match=r"lstm/digits\.csv needs as many episodes of every training"):
        gather(read_agents(results), TABLES)


def test_what_the_protocol_asks_for_and_is_not_there_is_named(results):
    lacking = missing(gather(read_agents(results), TABLES), TABLES)
    assert lacking == {("lstm", "digits"): (2, 3), ("lstm-128", "digits"): (0, 1)}


def test_the_page_has_every_agent_its_pictures_and_the_notes(results, tmp_path):
    (results / "notes").mkdir()
    (results / "notes" / "found.md").write_text("What people found.\n")
    page = tmp_path / "docs" / "results.md"
    page.parent.mkdir()
    page.with_name("attempts.md").write_text("What was tried.\n")
    write_report(results, page, TABLES)
    text = page.read_text()
    for name in ("wait", "random", "lstm", "big", "lstm-no-feedback"):
        assert f"| `{name}` |" in text
    assert "## What was found\n\nWhat people found." in text
    assert f"[Versions 1 to {TABLES.version - 1}](attempts.md) were begun" in text
    assert "**Not the whole protocol:**" in text
    assert "`lstm-128@0.5`" in text
    for link in re.findall(r"\]\(([^)]+\.svg)\)", text):
        drawing = ElementTree.parse(page.parent / link).getroot()
        assert drawing.tag == f"{SVG}svg"
        assert drawing.get("aria-label")
    rows = [line for line in text.splitlines() if line.startswith("| `lstm` |")]
    assert "2 × 20" in rows[0]
    assert "200,000" in rows[0]
    write_report(results, page, TABLES)
    assert page.read_text() == text


def test_nobody_that_another_dominates_is_on_the_front():
    found = pictures.undominated(
        {"dear": (9, 5.0), "cheap": (1, 2.0), "bad": (5, 1.0), "good": (4, 6.0), "same": (4, 6.0)}
    )
    assert found == ["cheap", "good"]


def test_names_beside_a_picture_keep_apart_and_inside():
    close = {f"agent{i}": (1_000.0 + i, Interval(50.0 + i / 100, 49.0, 51.0)) for i in range(12)}
    drawing = ElementTree.fromstring(pictures.front(close, "parameters", "accuracy"))
    heights = sorted(float(t.get("y")) for t in drawing.iter(f"{SVG}text") if (t.get("class") or "").startswith("name"))
    assert len(heights) == 12
    assert np.diff(heights).min() > 15
    assert heights[0] > 0
    assert heights[-1] < 400


def test_a_curve_ends_where_the_shortest_training_ends():
    lines = {
        "a": [[(10.0, 1.0), (20.0, 2.0), (30.0, 9.0)], [(10.0, 3.0), (20.0, 4.0)]],
        "b": [[(10.0, 0.0), (20.0, 1.0)]],
    }
    drawing = ElementTree.fromstring(pictures.curves(lines, "steps", "return"))
    mean, _ = drawing.findall(f"{SVG}polyline")
    assert len(mean.get("points").split()) == 2
    assert "a 3.00" in {text.text for text in drawing.iter(f"{SVG}text")}
    assert len(drawing.findall(f"{SVG}polygon")) == 1


@pytest.mark.parametrize("values", [[5.0], [0.0, 0.0], [-1e-9, 1e9], [1, 2, 3]])
def test_every_range_has_round_ticks_inside(values):
    around = pictures.Range.around(values)
    ticks = around.ticks()
    assert 1 <= len(ticks) <= 12
    assert all(around.low <= tick <= around.high for tick in ticks)


@pytest.mark.usefixtures("cells")
def test_scaffolding_is_measured_once_and_again_when_the_actions_are_others(tmp_path, monkeypatch):
    asked = []

    def measure(actions, env, *, threads):
        asked.append(len(actions))
        return scaffold.Shares(0.5, 0.25, 0.125)

    monkeypatch.setattr(scaffold, "measure", measure)
    results, page = tmp_path / "results", tmp_path / "results.md"
    rows = [Episode("wait", "cells", -1, 1_000_000, 1.0, 1.0, 17.0, 400, 1.0, 50)]
    write_episodes(results / "wait" / "cells.csv", rows)
    write_json(results / "wait" / "agent.json", {"agent": "wait", "protocol": VERSION, "runs": {}})
    for episodes in (1, 1, 2):
        actions = {(-1, 1_000_000 + i): np.zeros((2, 8), np.int64) for i in range(episodes)}
        write_actions(results / "wait" / "cells.actions.csv.gz", actions)
        write_report(results, page, replace(TABLES, env={"cells": {}}))
    assert asked == [1, 2]
    assert "| `wait` | 50% | 25% | 12% |" in page.read_text()
