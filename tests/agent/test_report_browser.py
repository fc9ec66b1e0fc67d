import json
import re

import pytest

from esper_agent.report import write_report
from esper_agent.report.page import LATEST
from esper_agent.train import train
from tests.agent.chromium import BINARY, Chromium
from tests.agent.test_train import quiet, tiny
from tests.conftest import HASTY

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BINARY is None, reason="no Chromium here: apt install chromium"),
]
EPOCHS = 12
ENV = {"max_epochs": EPOCHS, "training": {"batches_per_epoch": 1, "val_samples": 32}, "lifecycle": HASTY}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """The page of a short run whose account of the training is as long as the page shows."""
    run = tmp_path_factory.mktemp("runs") / "r"
    train(tiny(run, env=ENV, steps=8 * EPOCHS, evaluation_episodes=0), show=quiet)
    account = run / "episodes.jsonl"
    account.write_text(account.read_text() * (1 + LATEST // 8))
    return write_report(run, 3)[1]


@pytest.fixture(scope="module")
def data(path):
    """What the page knows."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text())[1])


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """One browser for all."""
    chromium = Chromium(tmp_path_factory.mktemp("chromium"))
    yield chromium
    chromium.close()


@pytest.fixture
def page(browser, path):
    """The page as it opens."""
    browser.resize(1200, 900)
    browser.prefer()
    browser.complaints.clear()
    browser.requests.clear()
    browser.open(path)
    yield browser
    assert browser.complaints == []


def text(page, name):
    return page.value(f"document.getElementById({name!r}).innerText")


def focus(page, name):
    page.value(f"document.getElementById({name!r}).focus()")


def shown(page):
    """Texts of the rows that the filters leave."""
    return page.value(
        "[...document.querySelectorAll('#episodes tbody tr')].filter(r => !r.hidden).map(r => r.innerText)"
    )


def test_it_opens_from_a_file_without_a_word_and_asks_for_nothing_else(page, path):
    assert page.requests == [path.resolve().as_uri()]
    assert page.value("document.getElementById('player').hidden") is False
    assert page.value("document.querySelectorAll('#timeline svg, #reward svg').length") == 2


def test_a_page_is_small_enough_to_send_to_somebody(path):
    """Five megabytes for episodes of 50 epochs, and as much less as these are shorter."""
    assert path.stat().st_size < 5_000_000 * EPOCHS / 50


def test_the_scrubber_goes_through_the_epochs_by_keyboard(page, data):
    said = data["replays"][0]["said"]
    focus(page, "epoch")
    assert text(page, "now") == f"epoch 0 of {EPOCHS}"
    for key, epoch in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", EPOCHS), ("Home", 0)):
        page.press(key)
        assert text(page, "now") == f"epoch {epoch} of {EPOCHS}"
        assert page.value("document.getElementById('epoch').getAttribute('aria-valuetext')") == text(page, "now")
        assert text(page, "summary").startswith(f"Epoch {epoch} of {EPOCHS}.")
        if epoch:
            assert said[epoch - 1] in text(page, "summary")
            assert said[epoch - 1] in text(page, "decision")


def test_the_space_bar_plays_and_stops_and_a_screen_reader_is_left_in_peace_meanwhile(page):
    focus(page, "epoch")
    live = "document.getElementById('summary').getAttribute('aria-live')"
    assert (text(page, "play"), page.value(live)) == ("Play", "polite")
    page.press(" ")
    assert (text(page, "play"), page.value(live)) == ("Pause", "off")
    page.value(
        "new Promise(done => new MutationObserver(done).observe(document.getElementById('now'), {childList: true}))"
    )
    page.press(" ")
    assert (text(page, "play"), page.value(live)) == ("Play", "polite")
    assert text(page, "now") != f"epoch 0 of {EPOCHS}"


@pytest.mark.parametrize("chart", ["timeline", "reward"])
def test_a_click_into_a_chart_goes_to_that_epoch(page, chart):
    def cursor(epoch):
        page.value(f"player.go({epoch})")
        page.value(f"document.getElementById({chart!r}).scrollIntoView({{block: 'center'}})")
        box = f"document.querySelector('#{chart} .cursor').getBoundingClientRect()"
        return page.value(f"(({{left, top, height}}) => [left, top + height / 2])({box})")

    (x, _), (_, y) = cursor(7), cursor(0)
    page.click(x, y)
    assert text(page, "now") == f"epoch 7 of {EPOCHS}"


def to_a_tenth(page, number):
    """As the browser rounds; of two that are equally near Python may take the other."""
    return page.value(f"({number}).toFixed(1)")


def test_every_epoch_of_every_replay_shows_what_was_recorded(page, data):
    stages = [stage["name"] for stage in data["stages"]]
    in_use = 0
    for number, replay in enumerate(data["replays"]):
        page.value(f"player.choose({number})")
        for epoch in (0, EPOCHS // 2, EPOCHS):
            page.value(f"player.go({epoch})")
            network = text(page, "network")
            for slot, stage in enumerate(replay["stage"][epoch]):
                held = "empty" if stages[stage] == "DORMANT" else data["blueprints"][replay["blueprint"][epoch][slot]]
                assert f"slot {slot}: {held}" in network
                assert stages[stage] in network or held == "empty"
            assert f"{to_a_tenth(page, replay['accuracy'][epoch])} %" in network
            used = [slot for slot, stage in enumerate(replay["stage"][epoch]) if data["stages"][stage]["used"]]
            rows = page.value("document.querySelectorAll('#worth table:first-of-type tbody tr').length")
            assert rows == (2 ** len(used) if used else 0)
            in_use += len(used)
            for slot in used:
                share = replay["shapley"][epoch][slot]
                assert f"{'−' if share < 0 else '+'}{to_a_tenth(page, abs(share))}" in text(page, "worth")
            paid = sum(term[epoch - 1] for term in replay["terms"].values()) if epoch else 0
            assert epoch == 0 or f"{abs(paid):.3f}" in text(page, "terms")
            so_far = sum(sum(term[:epoch]) for term in replay["terms"].values())
            told = page.value("[...document.querySelectorAll('#terms tr')].at(-2).cells[2].textContent")
            assert float(told.replace("−", "-")) == pytest.approx(so_far, abs=6e-4)
    assert in_use


def test_the_decision_shows_every_op_with_its_probability_and_value(page, data):
    replay = data["replays"][0]
    page.value("player.go(1)")
    lines = "[...document.querySelectorAll('#decision table:first-of-type tbody tr')].map(row => row.textContent)"
    rows = page.value(lines)
    for op, (chance, value) in enumerate(zip(replay["chances"][0][data["op"]], replay["values"][0], strict=True)):
        name = data["heads"][data["op"]]["choices"][op]
        line = next(row for row in rows if row.removeprefix("✓ ").startswith(name))
        assert line.endswith(f"{abs(value):.2f}")
        assert ("not legal" in line) == (chance < 0)
        assert line.startswith("✓") == (op == replay["action"][0][data["op"]])


def test_filters_leave_the_rows_that_they_ask_for(page):
    everything = shown(page)
    assert len(everything) == 3 * 5 + LATEST
    page.type("words", "seed 1000001")
    assert len(shown(page)) == 5
    assert text(page, "count") == f"5 of {len(everything)} episodes"
    page.value("document.getElementById('policy').value = 'random'")
    page.type("words", " ")
    assert {row.split("\t")[0] for row in shown(page)} == {"random"}
    returns = sorted(float(row.split("\t")[2]) for row in shown(page))
    page.type("least", str(returns[1]))
    assert sorted(float(row.split("\t")[2]) for row in shown(page)) == returns[1:]
    page.type("most", str(returns[1]))
    assert sorted(float(row.split("\t")[2]) for row in shown(page)) == [returns[1]]


def test_columns_sort_either_way_and_say_so(page):
    header = "document.querySelectorAll('#episodes thead th')[2]"
    for direction in ("ascending", "descending"):
        page.value(f"{header}.querySelector('button').click()")
        returns = [float(row.split("\t")[2]) for row in shown(page)]
        assert returns == sorted(returns, reverse=direction == "descending")
        assert page.value(f"{header}.getAttribute('aria-sort')") == direction


def test_a_row_of_the_list_leads_to_its_replay(page, data):
    page.value("document.querySelector('[data-replay=\"1\"]').click()")
    assert page.value("document.getElementById('episode').selectedOptions[0].text") == data["replays"][1]["label"]
    assert page.value("document.activeElement.id") == "epoch"
    tables = "[...document.querySelectorAll('#tables details')].filter(t => !t.hidden).map(t => t.innerText)"
    assert [data["replays"][1]["label"] in table for table in page.value(tables)] == [True]


def test_everything_that_can_be_used_has_a_name(page):
    nodes = page.ask("Accessibility.getFullAXTree")["nodes"]
    fields = {"button", "combobox", "slider", "spinbutton", "searchbox"}
    roles = fields | {"link", "table", "img", "image", "region", "form"}
    used = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n.get("ignored")]
    assert fields | {"table", "region"} <= {role for role, _ in used}
    assert [role for role, name in used if role in roles and not name.strip()] == []


@pytest.mark.parametrize("width", [400, 1200])
def test_only_tables_scroll_sideways(page, width):
    page.resize(width, 900)
    for epoch in range(0, EPOCHS + 1, 3):
        page.value(f"player.go({epoch})")
        assert page.value("document.documentElement.scrollWidth") <= width


def test_it_is_dark_for_those_who_prefer_that(page):
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.value(ground)
    page.prefer(color_scheme="dark")
    assert (light, page.value(ground)) == ("rgb(255, 255, 255)", "rgb(20, 24, 29)")


def test_without_scripts_the_episodes_are_tables(page, path, data):
    page.ask("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.open(path)
        told = page.ask("DOMSnapshot.captureSnapshot", computedStyles=[])["strings"]
        assert "Without scripts the episodes are tables, below." in told
        assert all(f"As a table: {replay['label']}" in told for replay in data["replays"])
        assert set(data["replays"][0]["said"]) <= set(told)
    finally:
        page.ask("Emulation.setScriptExecutionDisabled", value=False)
