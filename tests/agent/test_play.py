import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import gymnasium as gym
import numpy as np
import pytest

from esper_agent import cli
from esper_agent.play import Game
from esper_agent.play_advice import find_adviser
from esper_agent.play_menu import Menu, RefusalError
from esper_agent.spec import EnvSpec
from esper_agent.train import train
from esper_env.actions import CAUSAL_HEADS, HEAD_INDEX, HEAD_NAMES, Op, action_heads
from esper_env.config import ConfigError
from esper_env.env import SeedEnv
from esper_env.render.screen import CLEAR
from esper_env.testing import waiting_twin
from tests.agent.test_train import ENV, tiny
from tests.conftest import BRIEF, HASTY

OPTIONS = {"max_epochs": 12, "training": BRIEF, "lifecycle": HASTY}
WHOLE = ("g 1 norm linear_m fast", "a", "a", "9", "a", "f", "20", "20")
"""A seed from its planting to the end of the episode."""


@pytest.fixture
def says(monkeypatch, capsys):
    """Runs `esper play` with lines on its standard input; exit code, stdout and stderr."""

    def run(*lines, words=(), options=OPTIONS):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        code = cli.run(["play", "--seed", "3", "--env", json.dumps(options), *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "r"
    train(tiny(folder))
    return folder


def states(steps=40):
    """Menus of random play, and the environments they are of."""
    env = gym.make("esper_env:Esper-Seed-v0", **OPTIONS | {"max_epochs": steps})
    env.action_space.seed(0)
    observation, info = env.reset(seed=0)
    for _ in range(steps - 1):
        yield env, Menu(observation, 3)
        observation, *_, info = env.step(env.action_space.sample(mask=info["action_mask"]))


def test_every_op_of_a_menu_is_carried_out_with_nothing_but_its_letter():
    tried = set()
    for env, menu in states():
        for op in menu.legal:
            vector = menu.action(op.name[0].lower())
            *_, info = env.unwrapped.fork().step(np.array(vector))
            assert info["action_executed"]
            assert vector[HEAD_INDEX["op"]] == op
            tried.add(op)
    assert tried == set(Op)


def test_every_choice_that_is_shown_can_be_said_and_is_what_is_done():
    for _, menu in states(20):
        for op, slots in menu.legal.items():
            for head in CAUSAL_HEADS[op]:
                assert menu.default(op, head, slots[0]) in menu.choices(op, head)
                for choice in menu.choices(op, head):
                    vector = menu.action(f"{op.name.lower()} {choice.lower()}")
                    told = {h.name: h.choices[i] for h, i in zip(action_heads(), vector, strict=True)}
                    assert told[head] == choice
                    others = [name for name in HEAD_NAMES if name not in (*CAUSAL_HEADS[op], "op")]
                    assert all(vector[HEAD_INDEX[n]] == menu.heads[n].canonical for n in others)


def test_the_menu_fits_a_terminal():
    for _, menu in states():
        assert max(map(len, [*menu.lines(), *menu.explain()])) <= 80


@pytest.mark.parametrize(("spare", "kept"), [(0, False), (1, True)])
def test_a_terminal_without_a_row_for_the_prompt_is_spared_empty_lines(spare, kept, capsys, monkeypatch):
    game = Game(OPTIONS, seed=3, advice="heuristic")
    lines = game.lines()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr("esper_agent.play.get_terminal_size", lambda: os.terminal_size((80, len(lines) + spare)))
    game.show()
    shown = capsys.readouterr().out.removeprefix(CLEAR).splitlines()
    assert "" in lines
    assert shown == (lines if kept else [line for line in lines if line])


def test_words_may_come_in_any_order_and_be_shortened():
    menu = next(states())[1]
    assert menu.action("g 2 norm slow half gated") == menu.action("germinate half slow gate norm 2")
    assert menu.action("") == menu.action("wait")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("dance", "'dance' is nothing to do here. Say wait, germinate, a number, ? or q."),
        ("prune", "PRUNE is legal on no slot now"),
        ("g 7", "GERMINATE is legal on slot 0, 1 or 2, not on 7."),
        ("g conv", "'conv' could be conv_light, conv_small or conv_heavy"),
        ("g mlp", "'mlp' is no choice of GERMINATE now"),
        ("g 1 2", "'2' is a second slot beside 1"),
        ("wait 3", "To wait longer, say a number."),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_line_that_says_why(line, said):
    menu = next(states())[1]
    with pytest.raises(RefusalError) as refusal:
        menu.action(line)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_seed_keeps_its_way_of_blending_unless_told_otherwise(says):
    _, out, _ = says("g norm linear_multiply", "a", "a", "9", "?", "q")
    told = " ".join(out.split())
    assert "SET_ALPHA_TARGET slot [0] style linear_add [linear_multiply] sigmoid_add gated_gate" in told
    assert "alpha_speed instant fast [medium] slow" in told


def test_an_episode_is_played_shown_and_weighed(says):
    code, out, err = says(*WHOLE)
    assert (code, err) == (0, "")
    assert "You grow this network" in out
    for line in ("plant norm in slot 1", "slot 1 is TRAINING", "slot 1 is FOSSILIZED", "with shaping", "op_cost"):
        assert line in out
    twin = waiting_twin(seed=3, **OPTIONS)
    assert f"Had you only waited: {twin.objective_return:.2f}, and {twin.test_accuracy:.1f} %." in out
    assert out.endswith("--seed 3.\n")


def test_what_was_paid_so_far_is_the_sum_of_the_rewards():
    game, env = Game(OPTIONS, seed=3), gym.make("esper_env:Esper-Seed-v0", **OPTIONS)
    env.reset(seed=3)
    paid = objective = 0.0
    for line in ("g", "a", ""):
        _, reward, _, _, info = env.step(np.array(game.menu.action(line)))
        paid, objective = paid + reward, objective + info["objective_reward"]
        game.obey(line)
    assert (game.account.reward, game.account.objective_return) == pytest.approx((paid, objective))
    assert paid != pytest.approx(objective)


def test_a_number_waits_until_there_is_news(says):
    _, out, _ = says("g 0", "a", "9", "q", options=OPTIONS | {"lifecycle": {"min_training_epochs": 4}})
    assert "Left at epoch 5 of 12." in out  # ADVANCE has become legal
    _, out, _ = says("9", "0", "q")
    assert "Left at epoch 9 of 12." in out
    assert "Wait at least 1 epoch." in out


def test_wrong_input_is_answered_in_a_line_and_asked_again(says):
    code, out, _ = says("dance", "g 7", "g", "q")
    assert code == 0
    assert "> 'dance' is nothing" in out
    assert "Left at epoch 1 of 12." in out


@pytest.mark.parametrize("lines", [(), ("",), ("", "q"), ("", "QUIT")])
def test_the_end_of_the_input_and_q_leave_cleanly(says, lines):
    code, out, err = says(*lines)
    assert (code, err) == (0, "")
    assert "Left at epoch" in out


def test_an_episode_is_saved_as_training_saves_it(says, trained, tmp_path):
    file = tmp_path / "new" / "mine.jsonl"
    for _ in range(2):
        assert f"Saved in {file}." in says(*WHOLE, words=("--save", str(file)))[1]
    first, second = (json.loads(line) for line in file.read_text().splitlines())
    theirs = json.loads((trained / "episodes.jsonl").read_text().splitlines()[0])
    assert first == second
    assert first.keys() == theirs.keys()
    assert first["reward_terms"].keys() == theirs["reward_terms"].keys()
    for name, column in theirs.items():
        if isinstance(column, list):
            assert len(first[name]) == OPTIONS["max_epochs"]
            assert np.shape(first[name][0]) == np.shape(column[0])
    env = gym.make("esper_env:Esper-Seed-v0", **OPTIONS)
    env.reset(seed=3)
    told = [env.step(np.array(action))[4] for action in first["action"]]
    assert [info["action_executed"] for info in told] == first["executed"]
    assert [info["stage"].tolist() for info in told] == first["stage"]
    assert [info["val_accuracy"] for info in told] == pytest.approx(first["val_accuracy"], abs=1e-4)
    assert sum(info["objective_reward"] for info in told) == pytest.approx(first["objective_return"])


def test_what_was_left_early_is_not_saved(says, tmp_path):
    says("g", "q", words=("--save", str(tmp_path / "mine.jsonl")))
    assert not (tmp_path / "mine.jsonl").exists()


def test_a_baseline_advises(says):
    _, out, _ = says("", "q", words=("--advice", "schedule"))
    assert "advice    schedule would GERMINATE: plant conv_light in slot 0" in out


def test_a_trained_policy_gives_its_reasons_and_remembers(says, trained):
    _, out, _ = says("3", "q", words=("--advice", str(trained)), options=ENV)
    reasons = [line for line in out.splitlines() if "% Q " in line]
    assert len(reasons) == 2
    assert f"advice    {trained.name} would most likely " in out
    for line in reasons:
        assert sum(int(share) for share in line.replace("%", " ").split() if share.isdigit()) in range(98, 103)
    env = gym.make("esper_env:Esper-Seed-v0", **ENV)
    adviser = find_adviser(str(trained), env)
    observation, _ = env.reset(seed=3)
    first = adviser.advise(observation)
    assert adviser.advise(observation) != first


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--advice", "heuristics"), "Did you mean 'heuristic'"),
        (("--advice", "lstm"), "'lstm' has learned nothing yet"),
        (("--task", "digit"), "Did you mean 'digits'"),
        (("--seed", "-1"), "seed must be at least 0"),
        (("--env", '{"task": "shapes"}'), "Give task as an argument of its own"),
        (("--env", '{"render_mode": "human"}'), "is drawn as text in the terminal: leave render_mode out.\n"),
    ],
)
def test_bad_usage_of_play_exits_2_and_says_why(capsys, words, said):
    assert cli.run(["play", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_policy_trained_with_what_only_many_hosts_know_advises(tmp_path):
    config = tiny(tmp_path, env={**ENV, "chunk": 4, "max_episode_steps": 3}, steps=24, evaluation_episodes=0)
    train(config, show=lambda metrics, config: None)
    assert find_adviser(str(tmp_path), EnvSpec.of(SeedEnv(**ENV)))


def test_a_policy_for_other_sizes_is_refused(trained):
    was = f"The policy of {trained} was trained on 3 slots"
    for spec, said in (
        (
            EnvSpec(5, 13, 170),
            f"{was} and 13 blueprints; this environment has 5 slots and 13 blueprints. Choose a task",
        ),
        (EnvSpec(1, 14, 54), f"{was} and 13 blueprints; this environment has 1 slot and 14 blueprints."),
        (
            EnvSpec(3, 13, 99),
            f"{was}, 13 blueprints and 112 features; this environment has 3 slots, 13 blueprints and 99",
        ),
    ):
        with pytest.raises(ConfigError, match=re.escape(said)):
            find_adviser(str(trained), spec)


def test_a_terminal_sees_one_frame_at_a_time_and_ctrl_c_ends_it():
    terminal, ours = pty.openpty()
    words = [sys.executable, "-m", "esper_agent", "play", "--seed", "3", "--env", json.dumps(OPTIONS)]
    process = subprocess.Popen(
        words,
        stdin=ours,
        stdout=ours,
        stderr=ours,
        env={**os.environ, "TERM": "xterm"},
        # Tests that run in the background are told to ignore Ctrl-C, and would hand that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    os.close(ours)
    asked = rb"q to leave\r\n.*> $"
    try:
        shown = _until(terminal, asked)
        os.write(terminal, b"g\n")
        shown += _until(terminal, asked)
        time.sleep(0.5)  # the prompt is shown a moment before input waits, and in between Python would only take note
        process.send_signal(signal.SIGINT)
        shown += _until(terminal, rb"with --seed 3\.\r\nInterrupted\.\r\n$")
        assert process.wait(60) == cli.INTERRUPTED
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    frames = shown.split(b"\x1b[H\x1b[2J")[1:]
    assert len(frames) == 2
    assert all(frame.count(b"\n") < 24 for frame in frames), "none is longer than a terminal"
    assert b"Traceback" not in shown


def _until(terminal, pattern):
    """What a terminal shows until that matches; it is not silent for minutes."""
    shown = b""
    while not re.search(pattern, shown, re.DOTALL):
        assert select.select([terminal], [], [], 120)[0], shown
        shown += os.read(terminal, 4096)
    return shown
