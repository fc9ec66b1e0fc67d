import json
import pickle
import urllib.request
from dataclasses import replace

import numpy as np
import pytest
import torch

from esper_env.actions import Op
from esper_env.config import ConfigError
from esper_env.env import SeedEnv
from esper_env.lifecycle.stages import Stage
from esper_env.tasks import TASKS, tinystories
from esper_env.tasks.tinystories import ADDRESSES, TEST, TOKENIZER, TRAIN, TinyStories
from esper_env.vector_env import SeedVectorEnv
from tests.conftest import STORIES, action, simulate, step, stories, write_tokenizer
from tests.env.test_stacking import assert_same_trajectory, trajectory
from tests.properties import recordings
from tests.properties.fingerprints import digest

SMALL = TinyStories(length=32, train=40, val=6, test=10)
SPLITS = ("train", "val", "test")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / TRAIN).write_text(stories(0, 40) + "naïve — “quoted”\n", encoding="utf-8")
    (tmp_path / TEST).write_text(stories(1, 12), encoding="utf-8")
    return tmp_path


def text_of(split):
    """The stream that a split was cut from."""
    return bytes([*split.inputs.ravel().tolist(), int(split.labels[-1, -1])])


def test_the_splits_are_the_beginnings_of_the_files_in_order_and_share_no_text(folder):
    data = SMALL.at(str(folder), False).load()
    assert [getattr(data, name).inputs.shape for name in SPLITS] == [(40, 32), (6, 32), (10, 32)]
    known = (folder / TRAIN).read_text(encoding="utf-8").replace("\n<|endoftext|>\n", "\0").encode()
    fresh = (folder / TEST).read_text(encoding="utf-8").replace("\n<|endoftext|>\n", "\0").encode()
    assert text_of(data.train) == known[: 40 * 32 + 1]
    assert text_of(data.val) == known[40 * 32 : 46 * 32 + 1]
    assert text_of(data.test) == fresh[: 10 * 32 + 1]


def test_every_label_is_the_token_after_its_input(folder):
    data = SMALL.at(str(folder), False).load()
    for split in (data.train, data.val, data.test):
        np.testing.assert_array_equal(split.inputs.ravel()[1:], split.labels.ravel()[:-1])
        assert split.inputs.dtype == np.uint8


@pytest.mark.parametrize("letter", ["a", "“"])
def test_of_bytes_no_more_is_read_than_twice_the_tokens_and_a_letter_cut_in_two_does_no_harm(folder, letter):
    source = replace(SMALL, train=4, val=1, test=2)
    for name, texts in ((TRAIN, 5), (TEST, 2)):
        told = (folder / name).read_bytes()[: 2 * (texts * 32 + 1) - 1] + letter.encode()
        (folder / name).write_bytes(told + b"\xff" * 99)
    data = source.at(str(folder), False).load()
    assert [len(getattr(data, name)) for name in SPLITS] == [4, 1, 2]


def test_short_files_give_what_they_have_and_keep_a_twentieth_for_validation(folder):
    source = replace(SMALL, train=10**6, val=10**6, test=10**6).at(str(folder), False)
    data = source.load()
    tokens = len((folder / TRAIN).read_bytes()) - (len("\n<|endoftext|>\n") - 1) * 39
    texts = (tokens - 1) // 32
    assert (len(data.train), len(data.val)) == (texts - texts // 20, texts // 20)
    assert len(data.test) > 10


def test_what_is_missing_is_named_with_where_to_get_it(folder, monkeypatch):
    (folder / TEST).unlink()
    with pytest.raises(ConfigError, match=f"no {TEST} in .*{ADDRESSES[TEST]}.*download=True"):
        SMALL.at(str(folder), False).load()
    with pytest.raises(ConfigError, match=rf"no {TRAIN} and no {TEST} in"):
        SMALL.at(str(folder / "nowhere"), False).load()
    monkeypatch.delenv("ESPER_DATA_DIR")
    with pytest.raises(ConfigError, match="TinyStories needs a directory: give data_dir=") as caught:
        SMALL.load()
    assert pickle.loads(pickle.dumps(caught.value)).remedies == (("data_dir",), ("data_dir", "download"))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"", "0 tokens"), (b"once upon a time", "truncated"), (b"once \xff\xfe" * 99, "byte 5 is no UTF-8")],
)
@pytest.mark.parametrize("name", [TRAIN, TEST])
def test_damaged_files_are_refused_by_name(folder, name, content, complaint):
    (folder / name).write_bytes(content)
    with pytest.raises(ConfigError, match=f"{name} is damaged: .*{complaint}.*{ADDRESSES[name]}"):
        SMALL.at(str(folder), False).load()


def test_a_changed_file_is_read_anew(folder):
    source = SMALL.at(str(folder), False)
    before = source.load()
    (folder / TRAIN).write_text(stories(7, 50), encoding="utf-8")
    assert (source.load().train.inputs != before.train.inputs).any()


def test_download_fetches_what_is_missing_and_leaves_nothing_half_done(folder, tmp_path_factory, monkeypatch):
    place = tmp_path_factory.mktemp("fetched") / "new"
    monkeypatch.setattr(tinystories, "ADDRESSES", {n: (folder / n).as_uri() for n in (TRAIN, TEST)})
    fetched, there = SMALL.at(str(place), True).load(), SMALL.at(str(folder), False).load()
    np.testing.assert_array_equal(fetched.train.inputs, there.train.inputs)
    assert sorted(path.name for path in place.iterdir()) == [TRAIN, TEST]
    (place / TEST).unlink()
    (folder / TEST).unlink()
    with pytest.raises(ConfigError, match=f"{TEST} could not be fetched into"):
        SMALL.at(str(place), True).load()
    assert [path.name for path in place.iterdir()] == [TRAIN]


def test_nothing_is_fetched_unless_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlretrieve", lambda *_: pytest.fail("fetched"))
    with pytest.raises(ConfigError, match="download=True"):
        SMALL.at(str(tmp_path), False).load()


def test_tokens_of_a_tokenizer_decode_to_the_stories(folder):
    tokenizer = write_tokenizer(folder / TOKENIZER)
    data = replace(SMALL, vocabulary="gpt2", train=20).at(str(folder), False).load()
    stream = [*data.train.inputs.ravel().tolist(), int(data.train.labels[-1, -1])]
    told = (folder / TRAIN).read_text(encoding="utf-8")
    assert told.startswith(tokenizer.decode(stream, skip_special_tokens=False))
    assert tokenizer.token_to_id("<|endoftext|>") in stream
    assert len(data.train) == 20


def test_a_tokenizer_that_is_none_or_too_large_is_refused(folder, monkeypatch):
    source = replace(SMALL, vocabulary="gpt2").at(str(folder), False)
    with pytest.raises(ConfigError, match=f"no {TOKENIZER} in"):
        source.load()
    write_tokenizer(folder / TOKENIZER)
    monkeypatch.setitem(tinystories.VOCABULARY, "gpt2", 20)
    with pytest.raises(ConfigError, match=r"knows .* tokens, and GPT-2 20"):
        source.load()
    (folder / TOKENIZER).write_text(json.dumps({"version": "1.0"}))
    with pytest.raises(ConfigError, match=f"{TOKENIZER} is damaged: it is no tokenizer"):
        source.load()


def test_without_the_package_the_error_names_it_and_the_task_that_does_without(folder, monkeypatch):
    (folder / TOKENIZER).write_text("{}")
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(ConfigError, match=r"pip install 'esper-env\[data\]'.*task='tinystories'"):
        replace(SMALL, vocabulary="gpt2").at(str(folder), False).load()


@pytest.mark.slow
def test_the_whole_environment_runs_on_tinystories_and_repeats_itself_from_a_state(folder):
    brief = {"batches_per_epoch": 1, "batch_size": 1, "val_samples": 1}
    env = SeedEnv(
        task="tinystories", data_dir=str(folder), training=brief, lifecycle={"min_training_epochs": 1}, max_epochs=5
    )
    env.reset(seed=0)
    for vector in (action(Op.GERMINATE, 1, "lora"), action(Op.ADVANCE, 1)):
        *_, info = env.step(np.array(vector))
        assert info["action_executed"]
    fork = env.fork()
    ends = []
    for copy in (env, fork):
        steps = [copy.step(np.array(vector)) for vector in (action(Op.ADVANCE, 1), action(), action())]
        assert steps[-1][2]
        assert steps[-1][4]["test_accuracy"] >= 0
        ends.append([digest(np.asarray(reward), info) for _, reward, _, _, info in steps])
    assert ends[0] == ends[1]


BRIEF = {"batches_per_epoch": 1, "batch_size": 2, "val_samples": 3}


@pytest.mark.parametrize("kind", recordings.KINDS)
def test_both_environments_repeat_bit_for_bit_from_the_start_a_fork_and_a_state(small_stories, kind):
    half = recordings.STEPS // 2
    recording = recordings.perform(recordings.make(kind, small_stories))
    assert set().union(*recording.stages) == set(Stage) - {Stage.UNKNOWN}
    env = recordings.make(kind, small_stories)
    recordings.disturb(env)
    assert recordings.replay(env, recording.actions) == recording.whole()
    recordings.begin(env)
    for vectors in recording.actions[:half]:
        env.step(vectors)
    state, other = pickle.loads(pickle.dumps(env.get_state())), recordings.make(kind, small_stories)
    recordings.disturb(other)
    other.set_state(state)
    for copy in (env.fork(), other, pickle.loads(pickle.dumps(env))):
        assert recordings.resume(copy, recording.actions[half:]) == recording.part(half, recordings.STEPS)


def test_two_threads_do_what_one_does_with_the_same_stacks(small_stories):
    threaded, plain = (recordings.make("vector", small_stories, **how) for how in ({"threads": 2}, {"chunk": 2}))
    recording = recordings.perform(threaded)
    assert recordings.replay(plain, recording.actions) == recording.whole()
    threaded.close()


def test_a_host_of_many_does_what_it_does_in_other_company(small_stories):
    def run(names, env):
        simulation = simulate(len(names), seeds=names, **options)
        return trajectory(simulation, env, 10, [np.random.default_rng(name) for name in names])

    options = {"task": small_stories, "training": BRIEF, "lifecycle": {"min_training_epochs": 1, "embargo_epochs": 1}}
    alone = run([7, 8], 0)
    assert_same_trajectory(run([1, 2, 3, 7, 4], 3), alone)


def test_stories_are_learnt(small_stories):
    simulation = simulate(2, task=small_stories, training={"batches_per_epoch": 8, "batch_size": 8})
    before = simulation.signals.loss.copy()
    for _ in range(4):
        step(simulation)
    assert (simulation.signals.loss < 0.9 * before).all()


@pytest.mark.slow
def test_both_environments_step_with_all_tokens_of_gpt2(folder, monkeypatch):
    write_tokenizer(folder / TOKENIZER)
    task = TASKS["tinystories_gpt2"]
    host = replace(task.host, width=16, layers=2, heads=4, num_slots=2, length=16)
    monkeypatch.setitem(TASKS, task.name, replace(task, host=host, source=replace(task.source, length=16, train=20)))
    options = {"task": task.name, "data_dir": str(folder), "training": BRIEF, "max_epochs": 3}
    plant = np.array(action(Op.GERMINATE, 1, "mlp_small"))
    single, several = SeedEnv(**options), SeedVectorEnv(2, autoreset_mode="disabled", **options)
    for env, vectors in ((single, plant), (several, np.stack([plant, plant]))):
        env.reset(seed=0)
        *_, info = env.step(vectors)
        assert np.all(info["action_executed"])
        np.testing.assert_allclose(info["val_loss"], np.log(50257), rtol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("task", STORIES)
def test_many_hosts_of_the_real_size_step(task, folder):
    if task != "tinystories":
        write_tokenizer(folder / TOKENIZER)
    training = {"batches_per_epoch": 1, "batch_size": 1, "val_samples": 1}
    envs = SeedVectorEnv(2, task=task, data_dir=str(folder), training=training)
    envs.reset(seed=0)
    *_, info = envs.step(np.tile(action(Op.GERMINATE, 0, "norm"), (2, 1)))
    assert info["action_executed"].all()
    assert np.isfinite(info["val_loss"]).all()


def test_the_presets_are_those_of_the_specification():
    by_byte, by_token = TASKS["tinystories"], TASKS["tinystories_gpt2"]
    assert by_byte.chance_loss == np.log(256)
    assert (by_byte.target_loss, by_token.target_loss, by_token.chance_loss) == (1.5, 3.5, 10.8)
    for task in (by_byte, by_token):
        host = task.host
        assert (host.width, host.layers, host.heads, host.length, task.max_epochs) == (384, 6, 6, 256, 50)
        assert host.slot_of_block == (None, 0, None, 1, None, 2)
        assert task.source.length == host.length
        tensors = host.init(np.random.default_rng(0))
        layers = 6 * (12 * 384**2 + 4 * 384)
        assert sum(p.size for p in tensors.values()) == (host.classes + 256) * 384 + layers + 2 * 384
        assert torch.from_numpy(tensors["embedding.tokens"]).std().item() == pytest.approx(0.02, rel=0.01)
