import base64
import csv
import hashlib
import json
import re
import shlex
import shutil
import xml.etree.ElementTree as ElementTree
from html import escape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from esper_agent.demo import _make_room, demo
from esper_agent.evaluate import Episode, Estimate, summarise
from esper_agent.loggers import LogError, read_accounts, read_metrics
from esper_agent.policies.baselines import BASELINES
from esper_agent.recording import Recording
from esper_agent.report import write_page, write_report
from esper_agent.report.changes import then_and_now
from esper_agent.report.curve import _ticks, curve
from esper_agent.report.fates import Planting, fates_table, plantings_of_account, told
from esper_agent.report.health import heads_table, health
from esper_agent.report.page import LATEST
from esper_agent.report.replays import Replay, as_table
from esper_agent.report.results import results_table
from esper_agent.report.style import colours
from esper_agent.runs import load_config
from esper_agent.train import train
from esper_env.actions import Op
from esper_env.config import ConfigError
from esper_env.lifecycle.stages import Stage
from tests.agent.test_train import ENV, UPDATE, quiet, tiny
from tests.conftest import action


class Tags(HTMLParser):
    """Collects what a page refers to, and checks that every tag is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.references = [], []

    def handle_starttag(self, tag, attributes):
        self.references += [value for name, value in attributes if name in ("src", "href", "srcset")]
        if tag not in ("meta", "li", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag != "li":
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of a short run."""
    folder = tmp_path_factory.mktemp("runs") / "r"
    train(tiny(folder, steps=6 * UPDATE), show=quiet)
    table, path = write_report(folder, 3)
    return folder, table, path


def test_the_page_stands_alone_and_is_well_formed(page):
    text = page[2].read_text()
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert tags.references
    assert all(reference.startswith("#") for reference in tags.references)
    assert set(re.findall(r"https?://[^\"'\s]+", text)) == {"http://www.w3.org/2000/svg"}  # a name, not a place
    assert "prefers-color-scheme: dark" in text
    assert "nan" not in re.sub(r"<style>.*</style>", "", text, flags=re.S).lower().split()


def test_the_page_shows_the_trained_policy_beside_every_baseline(page):
    folder, table, path = page
    text = path.read_text()
    for agent in ("<b>lstm</b>", *BASELINES):
        assert f'<th scope="row">{agent}</th>' in text
    assert [line.split()[0] for line in table.splitlines()[2:]] == ["lstm", *BASELINES]
    assert len((folder / "evaluation.csv").read_text().splitlines()) == 1 + 3 * (1 + len(BASELINES))
    for op in Op:
        assert f'<th scope="row">{op.name}</th>' in text


def test_a_training_leaves_a_page_that_says_how_to_evaluate_it(tmp_path):
    train(tiny(tmp_path / "run"), show=quiet)
    text = (tmp_path / "run" / "report.html").read_text()
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert f"esper report {tmp_path / 'run'}" in text
    assert "Dots" not in text
    drawing = ElementTree.fromstring(re.search(r"<svg.*?</svg>", text, re.S)[0])
    assert len(drawing.find("polyline").get("points").split()) == 3
    assert not (tmp_path / "run" / "evaluation.csv").exists()


def test_a_training_that_goes_on_keeps_what_its_earlier_policy_reached(tmp_path):
    train(tiny(tmp_path, steps=UPDATE, evaluation_episodes=0), show=quiet)
    table, page = write_report(tmp_path, 2)
    told = f"lstm is the last checkpoint, after {UPDATE} steps, actions drawn"
    assert told in page.read_text()
    train(tiny(tmp_path, steps=2 * UPDATE, evaluation_episodes=0), resume=True, show=quiet)
    text = page.read_text()
    assert told in text
    assert f"{2 * UPDATE:,} environment steps" in text
    reached = table.splitlines()[2].split()[1]
    assert reached in text


def test_a_training_without_a_whole_episode_has_nothing_to_draw_but_can_be_evaluated(tmp_path):
    train(tiny(tmp_path, rollout_steps=2, steps=16), show=quiet)
    assert not (tmp_path / "report.html").exists()
    _, page = write_report(tmp_path, 2)
    assert "<b>lstm</b>" in page.read_text()


def test_the_policy_plays_as_it_is_told_and_the_page_says_so(page, tmp_path):
    drawn, run = (page[0] / "evaluation.csv").read_text(), shutil.copytree(page[0], tmp_path / "r")
    _, path = write_report(run, 3, temperature=0.0)
    rows = (run / "evaluation.csv").read_text()
    assert rows != drawn
    assert [line for line in rows.splitlines() if "lstm" not in line] == [
        line for line in drawn.splitlines() if "lstm" not in line
    ]
    assert path.read_text().count("always the likeliest action") == 2
    _, played = write_page(run, load_config(run)), path.read_text()
    assert played.count("always the likeliest action") == 1  # where the results are; nothing held out is replayed
    write_report(run, 3, temperature=0.25)
    assert path.read_text().count("actions drawn at temperature 0.25") == 2


def test_resuming_a_finished_run_keeps_the_page_with_its_evaluation(page):
    before = page[2].read_text()
    train(tiny(page[0], steps=6 * UPDATE), resume=True, show=quiet)
    assert page[2].read_text() == before


def test_the_curve_is_the_return_of_every_update(page):
    rows = read_metrics(page[0] / "metrics.csv")
    drawing = ElementTree.fromstring(re.search(r"<svg.*?</svg>", page[2].read_text(), re.S)[0])
    line = drawing.find("polyline").get("points").split()
    assert len(line) == len(rows) == 6
    heights = [-float(point.split(",")[1]) for point in line]
    returns = [float(row["episode/objective_return"]) for row in rows]
    order = sorted(range(6), key=returns.__getitem__)
    assert order == sorted(range(6), key=heights.__getitem__)


def test_names_beside_the_curve_do_not_overlap():
    updates = [{"steps": 32.0 * n, "episode/objective_return": float(n)} for n in (1, 2, 3)]
    alike = {name: {"objective return": Estimate(2.0, 1.5, 2.5)} for name in ("lstm", *BASELINES)}
    drawing = ElementTree.fromstring(curve([updates], alike, "lstm"))
    heights = sorted(float(text.get("y")) for text in drawing.iter("text") if text.text.endswith("2.00"))
    assert len(heights) == 5
    assert all(b - a >= 15.9 for a, b in pairwise(heights))


@pytest.mark.parametrize(("low", "high"), [(0, 150_000), (-0.3, 0.7), (1e-3, 2e-3), (-12, 70)])
def test_ticks_are_few_round_and_inside(low, high):
    ticks = _ticks(low, high)
    assert 3 <= len(ticks) <= 8
    assert all(low <= tick <= high for tick in ticks)
    assert all(len(f"{tick:g}") <= 6 for tick in ticks)


def test_every_planted_seed_has_one_fate():
    def account(stages, *decisions):
        return {
            "action": [list(map(int, decision)) for decision in decisions],
            "executed": [1] * len(decisions),
            "stage": [[int(stage), int(Stage.DORMANT)] for stage in stages],
        }

    plant, wait = action(Op.GERMINATE, 0, "norm"), action()
    grown = (Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING, Stage.HOLDING, Stage.FOSSILIZED)
    lost = (Stage.GERMINATED, Stage.PRUNED, Stage.EMBARGOED, Stage.GERMINATED, Stage.TRAINING)
    kept = account(grown, plant, wait, wait, wait, action(Op.FOSSILIZE))
    gone = account(lost, plant, action(Op.PRUNE), wait, action(Op.GERMINATE, 0, "attention"), wait)
    assert plantings_of_account(kept) == [Planting("norm", 0, "fossilized")]
    assert plantings_of_account(gone) == [Planting("norm", 0, "pruned"), Planting("attention", 0, "unfinished")]


def test_a_planting_that_was_not_executed_does_not_count():
    refused = {"action": [list(map(int, action(Op.GERMINATE)))], "executed": [0], "stage": [[1]]}
    assert plantings_of_account(refused) == []


def test_seeds_are_told_in_words_and_counted_by_blueprint_and_slot():
    seeds = [
        Planting("norm", 0, "pruned"),
        *2 * [Planting("attention", 1, "fossilized")],
        Planting("norm", 2, "pruned"),
    ]
    assert told(seeds) == "attention ×2 fossilized, norm ×2 pruned"
    assert told([]) == ""
    rows = re.findall(r'<th scope="row">(\w+)</th>(.*?)</tr>', fates_table(seeds))
    cells = {name: re.sub(r"<[^>]+>", " ", row).split() for name, row in rows}
    assert cells["norm"] == ["2", "0%", "100%", "0%", "1", "0%", "kept", "0", "1", "0%", "kept"]
    assert cells["attention"] == ["2", "100%", "0%", "0%", "0", "2", "100%", "kept", "0"]


def cells(table):
    """The words in the cells of a table, by the first one of the row."""
    lines = re.findall(r'<th scope="row">(.*?)</th>(.*?)</tr>', table)
    return {re.sub("<.*?>", "", name): re.findall(r"<td>(.*?)</td>", row) for name, row in lines}


def test_the_beginning_of_the_training_stands_before_its_end():
    updates = [{"op/WAIT": update / 20, "op/PRUNE": 0.0} for update in range(20)]
    assert cells(then_and_now(updates, "op/", "share", percent=True))["WAIT"][:2] == ["2.5%", "92.5%"]


def test_the_trained_policy_leads_by_what_it_returns_more_on_the_same_host():
    returned = {("lstm", 0): 3.0, ("wait", 0): 1.0, ("lstm", 1): 5.0, ("wait", 1): 2.0}
    rows = [Episode(agent, "digits", 0, seed, value, 0.0, 0.0, 1, 0.0, 1) for (agent, seed), value in returned.items()]
    table = cells(results_table(rows, summarise(rows), "lstm"))
    assert table["wait"][-1].startswith("+2.50 ")
    assert table["lstm"][-1] == ""


def test_an_episode_as_a_table_has_a_row_for_every_epoch(page):
    account = json.loads((page[0] / "episodes.jsonl").read_text().splitlines()[0])
    rows = cells(as_table(Replay("this one", Recording.of_account(account, "lstm"))))
    assert list(rows) == [str(epoch) for epoch in range(1, len(account["action"]) + 1)]
    for epoch, (decision, accuracy, *slots, reward) in enumerate(rows.values()):
        assert decision.startswith(Op(account["action"][epoch][-1]).name)
        assert accuracy == f"{account['val_accuracy'][epoch]:.1f} %"
        stages = ["" if stage == Stage.DORMANT else Stage(stage).name for stage in account["stage"][epoch]]
        assert [slot.split()[1] if slot else "" for slot in slots] == stages
        assert float(reward) == pytest.approx(sum(term[epoch] for term in account["reward_terms"].values()), abs=6e-4)


def test_the_episodes_of_the_training_are_its_last(tmp_path):
    path = tmp_path / "episodes.jsonl"
    path.write_text("".join(f'{{"update": {update}}}\n' for update in range(LATEST + 3)))
    assert [account["update"] for account in read_accounts(path, LATEST)] == list(range(3, LATEST + 3))
    with path.open("a") as file:
        file.write('{"update": 7')  # as it is while the training writes
    assert read_accounts(path, 1) == [{"update": LATEST + 2}]
    path.write_text("no episode\n")
    with pytest.raises(LogError, match="is damaged: line 1 is no episode"):
        read_accounts(path, LATEST)


def test_a_run_that_kept_no_episodes_has_a_page_all_the_same(page, tmp_path):
    run = shutil.copytree(page[0], tmp_path / "run")
    (run / "episodes.jsonl").unlink()
    _, drawn = write_report(run, 3)
    text = drawn.read_text()
    assert "All held-out episodes." in text
    assert "What was planted in training has not been kept." in text


def test_training_episodes_are_listed_under_one_name_and_without_an_accuracy_where_they_were_cut_short(tmp_path):
    env = {**ENV, "max_episode_steps": 3}
    page = write_page(tmp_path, load_trained(tiny(tmp_path, env=env, steps=24, evaluation_episodes=0)))
    text = page.read_text()
    assert '<option value="lstm, training">lstm, training</option>' in text
    assert text.count('<td data-value="-1.0">–</td>') == 8


def load_trained(config):
    """Train, and say what with."""
    train(config, show=quiet)
    return load_config(Path(config.run))


def test_a_monitor_is_quoted_with_what_it_said_last():
    said = health([{"op/WAIT": 0.99}, {"op/WAIT": 0.5}, {"op/WAIT": 0.985}])
    assert "<li>2 of 3 updates, most recently: op/WAIT is 0.985," in said
    assert health([{"op/WAIT": 0.5}]) == "<p>No monitor had anything to say.</p>"


def test_a_head_that_has_stopped_exploring_is_pointed_out():
    table = heads_table([{"entropy/op": 0.5, "entropy/slot": 0.001}] * 20)
    verdicts = dict(re.findall(r'<th scope="row">(\w+)</th>.*?<td>([^<]*|<b>.*?</b>)</td></tr>', table))
    assert verdicts["op"] == "explores"
    assert verdicts["slot"] == "<b>has stopped exploring</b>"
    assert verdicts["tempo"] == "never had a choice"


def test_a_name_cannot_break_out_of_the_page(tmp_path):
    run = tmp_path / "<" / "script><b>&amp;"
    train(tiny(run, steps=UPDATE), show=quiet)
    text = (run / "report.html").read_text()
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert "/script><b>" not in text
    assert f"{escape(str(run))} · seed 0" in text
    assert f"<code>esper report {escape(shlex.quote(str(run)))}</code>" in text


def test_no_script_may_run_but_the_pages_own(page):
    text = page[2].read_text()
    script = re.search(r"<script>(.*?)</script>", text, re.S)[1]
    assert "</" not in script
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in text


def test_replays_tell_what_was_evaluated(page):
    folder, _, path = page
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text())[1])
    with (folder / "evaluation.csv").open(newline="") as file:
        rows = {(row["agent"], row["evaluation_seed"]): row for row in csv.DictReader(file)}
    trained = [replay for replay in data["replays"] if replay["label"].startswith("lstm: ")]
    assert [replay["label"].split(", ")[0] for replay in trained] == [
        "lstm: best of 3 episodes",
        "lstm: rank 2 of 3 episodes",
        "lstm: worst of 3 episodes",
    ]
    assert len(data["replays"]) == 3 + len(BASELINES)
    for replay in data["replays"]:
        agent, seed = replay["label"].split(":")[0], re.search(r"seed (\d+)", replay["label"])[1]
        row = rows[agent, seed]
        assert replay["total"] == pytest.approx(float(row["objective_return"]), abs=1e-3)
        assert replay["test"][-1] == pytest.approx(float(row["committed_test_accuracy"]), abs=1e-3)
        assert sum(replay["objective"]) == pytest.approx(replay["total"], abs=0.01)
        assert len(replay["accuracy"]) == len(replay["action"]) + 1 == int(row["env_steps"]) + 1
        assert ("chances" in replay) == ("values" in replay) == (agent == "lstm")
    assert set(data["replays"][0]["terms"]) <= set(data["terms"])


def test_words_stand_out_from_the_page_whether_light_or_dark():
    """WCAG 2.2 AA: 4.5 to 1 for text, 3 to 1 for what must be told apart from its ground."""
    light, dark = colours(), {}
    for part in re.findall(r"@media[^{]*\{\s*(:root \{.*?\})\s*\}", light, re.S):
        dark |= dict(re.findall(r"--([\w-]+): (#\w+);", part))
        light = light.replace(part, "")
    for named in (dict(re.findall(r"--([\w-]+): (#\w+);", light)), dark):
        assert named
        for name in ("ink", "soft", "trained", "loss", "good", *BASELINES):
            assert contrast(named[name], named["paper"]) >= 4.5, name
        assert contrast(named["ink"], named["raised"]) >= 4.5
        assert contrast("#fff", named["host"]) >= 4.5
        for name in ("edge", "trained", "accuracy", "fossilized", "holding", "blending"):
            assert contrast(named[name], named["paper"]) >= 3, name


def contrast(one, other):
    def luminance(colour):
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_a_demo_replaces_an_earlier_one_but_nothing_else(tmp_path, capsys):
    demonstrated = tmp_path / "runs" / "demo"
    _make_room(demonstrated)
    train(tiny(demonstrated, steps=UPDATE), show=quiet)
    _make_room(demonstrated)
    assert not (demonstrated / "metrics.csv").exists()
    assert f"Replacing the earlier demo in {demonstrated}." in capsys.readouterr().out
    train(tiny(tmp_path / "precious", steps=UPDATE), show=quiet)
    kept = sorted(path.name for path in (tmp_path / "precious").iterdir())
    with pytest.raises(ConfigError, match="holds something else than an earlier demo; choose another --run"):
        _make_room(tmp_path / "precious")
    assert sorted(path.name for path in (tmp_path / "precious").iterdir()) == kept


@pytest.mark.slow
def test_a_demo_ends_with_the_table_and_the_page(tmp_path, capsys):
    for _ in range(2):
        assert demo(tmp_path / "demo", minutes=0.0, episodes=2, threads=1, show=quiet)
    said = capsys.readouterr().out
    assert "for one update, for which alone there is time (give more --minutes)" in said
    *_, line = said.splitlines()
    assert line.endswith(str(tmp_path / "demo" / "report.html"))
    assert (tmp_path / "demo" / "report.html").exists()
