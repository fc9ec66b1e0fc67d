"""One thread and a little of every file for tests, and short ways to a simulation and to actions."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from esper_env.actions import Op, Style, blueprint_names, head_sizes
from esper_env.network.transformer import TransformerHost
from esper_env.options import resolve
from esper_env.simulation import Simulation
from esper_env.tasks import TASKS, grammar
from esper_env.tasks.tinystories import GPT2, SEPARATOR, TEST, TOKENIZER, TRAIN

BRIEF = {"batches_per_epoch": 3, "val_samples": 96}
"""Training options for epochs of a few milliseconds."""
BRIEF_FEW = {"batches_per_epoch": 2, "batch_size": 3, "val_samples": 7}
"""The same where a sample is large, for texts and photographs; in sizes that suit no vector register."""
SMALL_IMAGES = ("digits", "digits_capable", "digits_deep", "shapes")
STORIES = ("tinystories", "tinystories_gpt2")
"""Tasks whose hosts take a second for an epoch, however short; `small_stories` makes them small."""
QUICK_TASKS = tuple(name for name in TASKS if name not in STORIES)
"""Tasks to play whole episodes of."""
HASTY = {"min_training_epochs": 1, "embargo_epochs": 1}
"""Lifecycle options with which seeds run through all stages in a few epochs."""
EAGERNESS = {Op.GERMINATE: 3, Op.SET_ALPHA_TARGET: 1, Op.PRUNE: 0.5, Op.FOSSILIZE: 1, Op.ADVANCE: 6}


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="session")
def cifar_folder(tmp_path_factory):
    """A small archive, found by every environment that is not told of another."""
    folder = tmp_path_factory.mktemp("cifar")
    write_cifar(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESPER_DATA_DIR", str(folder))
        yield folder


def write_cifar(folder, images=20):
    """Binary batches of so many images each, in the layout of the archive; returns pixels and labels by file."""
    rng, written = np.random.default_rng(0), {}
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        labels = rng.permutation(np.arange(images) % 10)
        pixels = rng.integers(0, 256, (images, 3, 32, 32), np.uint8)
        records = np.concatenate([labels[:, None].astype(np.uint8), pixels.reshape(images, -1)], 1)
        (folder / name).write_bytes(records.tobytes())
        written[name] = (pixels, labels)
    return written


def stories(seed, count):
    """So many stories as the files of TinyStories have them."""
    rng = np.random.default_rng(seed)
    told = [grammar.tell(lambda n: int(rng.integers(n)))[0].strip() for _ in range(count)]
    return f"\n{SEPARATOR}\n".join(told) + "\n"


def write_tokenizer(path):
    """A tokenizer of at most 300 tokens, trained on stories; skips the test where the package is not installed."""
    tokenizers = pytest.importorskip("tokenizers", reason="the package tokenizers is not installed")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, special_tokens=[SEPARATOR], show_progress=False)
    tokenizer.train_from_iterator([stories(3, 50)], trainer)
    tokenizer.save(str(path))
    return tokenizer


@pytest.fixture(scope="session")
def story_folder(tmp_path_factory):
    """A few stories in the files of TinyStories."""
    folder = tmp_path_factory.mktemp("stories")
    (folder / TRAIN).write_text(stories(0, 40), encoding="utf-8")
    (folder / TEST).write_text(stories(1, 12), encoding="utf-8")
    return folder


@pytest.fixture(params=STORIES)
def small_stories(request, story_folder, monkeypatch):
    """A task of TinyStories under its own name, with files that are there, two layers and few tokens.

    The host knows as many tokens as the tokenizer: with all of GPT-2's an epoch would take a second again.
    """
    task, classes = TASKS[request.param], 256
    if task.source.vocabulary == GPT2:
        if not (story_folder / TOKENIZER).exists():
            write_tokenizer(story_folder / TOKENIZER)
        classes = 300
    host = TransformerHost(classes, 32, width=32, layers=2, heads=4, num_slots=2)
    source = replace(task.source, length=32, train=16, val=4, test=4, data_dir=story_folder)
    monkeypatch.setitem(TASKS, task.name, replace(task, source=source, host=host, baseline_loss=None))
    return task.name


def simulate(envs=2, *, seeds=None, chunk=None, threads=1, **options):
    """A simulation at epoch 0; environment i has seed i unless said otherwise."""
    config, task = resolve(options)
    simulation = Simulation(config, task, envs, chunk=chunk, threads=threads)
    simulation.reset(np.ones(envs, bool), list(range(envs)) if seeds is None else list(seeds))
    return simulation


def action(op=Op.WAIT, slot=0, blueprint="noop", style=Style.SIGMOID_ADD, tempo=0, target=2, speed=0, curve=0):
    """An action vector."""
    return [slot, blueprint_names().index(blueprint), style, tempo, target, speed, curve, op]


def step(simulation, *vectors):
    """Step with one action vector per environment, or the same one for all; WAIT when none is given."""
    vectors = vectors or (action(),)
    chosen = vectors * simulation.envs if len(vectors) == 1 else vectors
    return simulation.step(np.array(chosen))


def random_actions(simulation, generators):
    """Legal actions, each drawn from its environment's own generator and state alone."""
    legal = simulation.legality()
    sizes = head_sizes(simulation.num_slots, len(simulation.blueprints))
    vectors = []
    for env, rng in enumerate(generators):
        vector = rng.integers(0, sizes)
        vector[1] = rng.choice(np.flatnonzero(simulation.plantable))
        ops = [op for op in EAGERNESS if legal[env, op].any()]
        vector[7], draw = Op.WAIT, rng.random()
        if ops and draw < 0.85:
            weights = np.array([EAGERNESS[op] for op in ops])
            vector[7] = op = rng.choice(ops, p=weights / weights.sum())
            vector[0] = rng.choice(np.flatnonzero(legal[env, op]))
        vectors.append(vector)
    return np.array(vectors)


def play(simulation, steps, seed=0, envs=None):
    """Random legal play, the same for an environment whatever its neighbours do; returns the generators."""
    names = range(simulation.envs) if envs is None else envs
    generators = [np.random.default_rng((seed, name)) for name in names]
    for _ in range(steps):
        simulation.step(random_actions(simulation, generators))
    return generators
