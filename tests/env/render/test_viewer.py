"""Environments show what their frames say, and rendering changes nothing in what happens."""

import copy
import pickle
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.wrappers import RecordVideo

from esper_env.config import ConfigError
from esper_env.env import SeedEnv
from esper_env.observation import SLOT_FEATURES
from esper_env.render.picture import HEIGHT, WIDTH, picture
from esper_env.render.text import text
from esper_env.render.viewer import RENDER_MODES, Viewer
from esper_env.vector_env import SeedVectorEnv
from tests.conftest import BRIEF_FEW, action, random_actions
from tests.env.render.episodes import OPTIONS, SCRIPT, make, watched


def test_a_frame_tells_what_info_and_the_observation_tell():
    env = make("ansi")
    env.reset(seed=1)
    names = [feature.name for feature in SLOT_FEATURES]
    measured = 0
    for vector in SCRIPT:
        observation, reward, *_, info = env.step(np.array(vector))
        frame = env.unwrapped._viewer.frame
        now, slots = frame.now, frame.slots
        assert now.number == info["epoch"]
        assert now.rolled_back == info["rolled_back"]
        assert now.value == pytest.approx(info["val_accuracy"])
        assert now.committed == pytest.approx(info["committed_accuracy"])
        assert (frame.host_params, frame.executed) == (info["host_params"], info["action_executed"])
        assert sum(slot.params for slot in slots) == info["seed_params"]
        assert frame.reward == pytest.approx(reward)
        np.testing.assert_array_equal([slot.stage for slot in slots], info["stage"])
        np.testing.assert_allclose([slot.alpha for slot in slots], info["alpha"])
        seen = observation["features"][-len(slots) * len(names) :].reshape(len(slots), -1)
        for slot, row in zip(slots, seen, strict=True):
            if slot.contribution is not None:
                measured += 1
                assert np.clip(slot.contribution, -10, 10) / 10 == pytest.approx(row[names.index("contribution")])
                assert slot.target == pytest.approx(row[names.index("alpha_target")])
    assert measured > 3


@pytest.mark.parametrize("mode", RENDER_MODES)
def test_gymnasiums_checker_finds_nothing_to_say_about_rendering(mode, capsys):
    check_env(make(mode).unwrapped)


@pytest.mark.parametrize("mode", RENDER_MODES)
def test_rendering_changes_nothing_in_the_trajectory(mode, capsys):
    env, unwatched = make(mode), make(None)
    assert data_equivalence(env.reset(seed=4), unwatched.reset(seed=4), exact=True)
    generator = np.random.default_rng(2)
    for _ in range(12):
        env.render()
        chosen = random_actions(env.unwrapped._simulation, [generator])[0]
        assert data_equivalence(env.step(chosen), unwatched.step(chosen), exact=True)
    assert data_equivalence(env.reset(), unwatched.reset(), exact=True)
    env.close()


def test_an_environment_renders_what_the_frame_says():
    env, expected = make("ansi"), watched()
    env.reset(seed=1)
    assert env.render() == text(expected[0])
    for vector, frame in zip(SCRIPT, expected[1:], strict=True):
        env.step(np.array(vector))
        assert env.render() == text(frame)
    env.reset(seed=1)
    assert env.render() == text(expected[0])


def test_lists_of_frames_are_collected():
    for mode, kind in (("rgb_array_list", np.ndarray), ("ansi_list", str)):
        env = make(mode)
        env.reset(seed=1)
        for vector in SCRIPT[:2]:
            env.step(np.array(vector))
        collected = env.render()
        assert [type(frame) for frame in collected] == [kind] * 3


def test_videos_are_recorded(tmp_path):
    pytest.importorskip("moviepy", reason="RecordVideo needs moviepy: pip install moviepy")
    env = RecordVideo(make("rgb_array"), str(tmp_path / "videos"), disable_logger=True)
    env.reset(seed=1)
    for _ in range(12):
        env.step(action())
    env.close()
    assert list(tmp_path.glob("videos/*.mp4"))


def test_rendering_without_a_mode_warns():
    env = SeedEnv(**OPTIONS)
    env.reset(seed=1)
    with pytest.warns(UserWarning, match="render_mode"):
        assert env.render() is None
    env.close()


def test_rendering_before_an_episode_is_refused():
    with pytest.raises(gym.error.ResetNeeded, match=r"reset\(\) before render\(\)"):
        SeedEnv(render_mode="ansi", **OPTIONS).render()


def test_an_unknown_mode_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'rgb_array'"):
        SeedEnv(render_mode="rgb_arrays")


def test_many_hosts_are_not_drawn_and_the_error_says_how_to_watch_one():
    with pytest.raises(ConfigError, match=r"render_mode='ansi'.* make a single environment"):
        SeedVectorEnv(2, render_mode="ansi")


def test_an_episode_of_texts_shows_the_score_that_it_pays_for(sketch):
    env = SeedEnv(task="story_grammar", max_epochs=4, training=BRIEF_FEW, render_mode="ansi")
    env.reset(seed=0)
    over = False
    while not over:
        *_, over, _, info = env.step(np.array(action()))
    frame = env._viewer.frame
    assert frame.now.value == pytest.approx(info["score"])
    assert 0 < info["score"] != pytest.approx(info["val_accuracy"])
    seen, drawn = text(frame), sketch(frame)
    assert "\nscore     ▁" in seen
    assert f" {info['score']:.1f}\npermanent ▁" in seen
    assert "score: 0 is guessing, 100 the loss aimed at" in seen
    assert f"{info['score']:.1f} is kept" in seen
    assert f"the end   {info['test_accuracy']:.1f} % of test answers right" in seen
    for said in (
        "Score on the validation data",
        "0 is guessing, 100 the loss aimed at",
        "100",
        "of 100",
        f"{info['score']:.1f}",
        "width 64",
    ):
        assert said in drawn.told
    assert f"The end: {info['test_accuracy']:.1f} % of test answers right" in drawn.told
    assert not any("channels" in said or said == "100 %" for said in drawn.told)


def test_what_was_seen_goes_with_states_forks_and_pickles():
    env, other = SeedEnv(render_mode="ansi", **OPTIONS), SeedEnv(render_mode="ansi", **OPTIONS)
    env.reset(seed=1)
    for vector in SCRIPT[:5]:
        env.step(np.array(vector))
    other.set_state(env.get_state())
    for copied in (other, env.fork(), pickle.loads(pickle.dumps(env))):
        assert copied.render() == env.render()
    for vector in (*SCRIPT[5:], *[action()] * 3):
        env.step(np.array(vector))
        other.step(np.array(vector))
    assert "on the test data" in env.render()
    for copied in (other, copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        assert copied.render() == env.render()


def test_a_state_of_an_unwatched_environment_is_watched_from_there_on():
    env, unwatched = SeedEnv(render_mode="ansi", **OPTIONS), SeedEnv(**OPTIONS)
    unwatched.reset(seed=1)
    for vector in SCRIPT[:4]:
        unwatched.step(np.array(vector))
    env.set_state(unwatched.get_state())
    env.step(np.array(SCRIPT[4]))
    assert "slot 0        bb" in env.render()
    unwatched.set_state(env.get_state())
    assert picture(env._viewer.frame).shape == (HEIGHT, WIDTH, 3)


def test_nothing_is_looked_at_without_a_mode(monkeypatch):
    monkeypatch.setattr("esper_env.render.viewer.look", None)
    env = SeedEnv(**OPTIONS)
    env.reset(seed=1)
    env.step(np.array(SCRIPT[0]))
    assert "frame" not in env.get_state()


def test_a_missing_pillow_is_an_error_that_names_the_extra():
    script = (
        "import sys; sys.modules['PIL'] = None; from esper_env import SeedEnv\n"
        "SeedEnv(render_mode='ansi')\n"
        "for mode in ('rgb_array', 'human'):\n"
        "    try: SeedEnv(render_mode=mode)\n"
        "    except ModuleNotFoundError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.count("pip install 'esper-env[render]'") == 2


def test_a_viewer_that_has_seen_nothing_says_so():
    with pytest.raises(RuntimeError, match="begin an episode first"):
        Viewer("ansi").render()
