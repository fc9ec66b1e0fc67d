import xml.etree.ElementTree as ElementTree

import pytest

from benchmarks.learning import curves, picture, row, trained
from esper_agent.evaluate import Episode
from esper_agent.train import train
from tests.agent.test_train import UPDATE, quiet, tiny

RETURN = "episode/objective_return"


def episodes(agent, returns, training_seed=-1):
    return [
        Episode(agent, "digits", training_seed, seed, value, value, 50.0, 1_000, 1e9, 50)
        for seed, value in enumerate(returns)
    ]


def test_curves_are_means_over_neighbouring_updates_and_leave_out_a_last_single_one(tmp_path):
    (tmp_path / "metrics.csv").write_text(f"steps,updates,{RETURN}\n10,1,1.0\n20,2,3.0\n30,3,4.0\n40,4,4.5\n50,5,9.0\n")
    assert curves([tmp_path]) == [[{"steps": 20.0, RETURN: 2.0}, {"steps": 40.0, RETURN: 4.25}]]


def test_a_row_holds_mean_interval_and_every_return():
    got = row("lstm, by the mode", episodes("lstm", [1.0, 2.0, 3.0], training_seed=1), 400)
    assert got["objective_return"] == 2.0
    assert got["interval"][0] < 2.0 < got["interval"][1]
    assert got["returns"] == [1.0, 2.0, 3.0]
    assert (got["training_seed"], got["training_steps"], got["episodes"]) == (1, 400, 3)


def test_the_picture_is_an_image_of_its_own_with_every_run_and_agent():
    lines = [[{"steps": 100.0 * i, RETURN: i + seed} for i in range(1, 5)] for seed in range(3)]
    drawing = ElementTree.fromstring(picture(lines, episodes("lstm", [4, 5]) + episodes("wait", [1, 2]), "lstm"))
    svg = "{http://www.w3.org/2000/svg}"
    assert drawing.tag == f"{svg}svg"
    assert len(drawing.findall(f"{svg}polyline")) == 3
    assert {"lstm 4.50", "wait 1.50"} <= {text.text for text in drawing.iter(f"{svg}text")}
    assert "prefers-color-scheme: dark" in drawing.find(f"{svg}style").text


def test_a_run_with_other_settings_is_not_taken_for_one_with_the_defaults(tmp_path):
    train(tiny(tmp_path / "seed0", steps=UPDATE), show=quiet)
    with pytest.raises(SystemExit, match="not a run with the defaults"):
        trained(tmp_path, 0, UPDATE, threads=1)
