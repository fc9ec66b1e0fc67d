"""One short trajectory per task, and its defaults and data: results must not change without anybody noticing.

Trajectories are quick because they override many defaults, so that these are compared by themselves. All of it is kept
in `golden/`;

    python -m tests.properties.test_golden --renew

writes the files anew, from the code as it is.
"""

import argparse
import hashlib
import json
import tempfile
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from esper_env.actions import Op, Style, blueprint_names
from esper_env.lifecycle.stages import BLENDED
from esper_env.observation import features
from esper_env.options import resolve
from esper_env.tasks import TASKS
from esper_env.vector_env import SeedVectorEnv
from tests.conftest import QUICK_TASKS, action, simulate, write_cifar

FOLDER = Path(__file__).parent / "golden"
EPOCHS, SEED = 14, 20
BATCH, BATCHES, SAMPLES = 32, 2, 128
OPTIONS = {
    "max_epochs": EPOCHS,
    "training": {"batch_size": BATCH, "batches_per_epoch": BATCHES, "val_samples": SAMPLES},
    "lifecycle": {"min_training_epochs": 1, "embargo_epochs": 2},
}
SCRIPTS = (
    {
        0: action(Op.GERMINATE, 0, "conv_light", Style.SIGMOID_ADD),
        1: action(Op.ADVANCE, 0),
        2: action(Op.ADVANCE, 0),
        3: action(Op.GERMINATE, 2, "attention", Style.LINEAR_MULTIPLY, tempo=1, target=1),
        4: action(Op.FOSSILIZE, 0),  # refused: it is not HOLDING
        5: action(Op.ADVANCE, 0),
        6: action(Op.FOSSILIZE, 0),
        7: action(Op.ADVANCE, 2),
        8: action(Op.ADVANCE, 2),
        10: action(Op.GERMINATE, 1, "norm"),
        13: action(Op.PRUNE, 1),
    },
    {
        0: action(Op.GERMINATE, 1, "depthwise", Style.GATED_GATE, target=0),
        1: action(Op.ADVANCE, 1),
        2: action(Op.ADVANCE, 1),
        3: action(Op.GERMINATE, 0, "bottleneck", Style.LINEAR_ADD),
        4: action(Op.ADVANCE, 0),
        5: action(Op.SET_ALPHA_TARGET, 1, style=Style.LINEAR_MULTIPLY, target=2, speed=1, curve=1),
        6: action(Op.ADVANCE, 0),
        7: action(Op.GERMINATE, 2, "conv_heavy"),
        8: action(Op.PRUNE, 1, speed=1, curve=2),
        9: action(Op.PRUNE, 2),
        10: action(Op.ADVANCE, 0),
    },
    {
        0: action(Op.GERMINATE, 0, "conv_small", Style.LINEAR_ADD),
        1: action(Op.ADVANCE, 0),
        2: action(Op.ADVANCE, 0),
        3: action(Op.GERMINATE, 1, "conv_heavy"),
        4: action(Op.ADVANCE, 1),
        5: action(Op.ADVANCE, 0),
        6: action(Op.FOSSILIZE, 0),
        7: action(Op.ADVANCE, 1),
        8: action(Op.GERMINATE, 2, "norm"),
        9: action(Op.ADVANCE, 2),
        10: action(Op.ADVANCE, 2),
    },
)
"""Every op, blueprint, blend algorithm and kind of prune: what each host of a trajectory does in which step."""
FOR_TEXTS = {
    "conv_small": "lora",
    "conv_light": "mlp_small",
    "depthwise": "flex_attention",
    "bottleneck": "lora_large",
    "conv_heavy": "mlp",
}
"""What is planted in a language host instead; `attention` and `norm` suit both."""
TEXTS = {"batch_size": 4, "val_samples": 8}
"""Training options of language tasks; each text has 64 tokens to predict."""
PHOTOGRAPHS = {"batch_size": 8}
"""Training options of CIFAR-10."""
IMAGES = 256
"""Images in each batch of the archive that stands in for it."""

ONE_SAMPLE = 100 / SAMPLES
"""What a sample counts for whose class is a matter of rounding on another processor."""
LOSS_ERROR, FEATURE_ERROR = 2e-4, 1e-4
TEST_ERROR = 2.0
"""Points of test accuracy. With oneDNN off the least stable host is off by 0.8, and by 5e-3 in its last loss."""
CALM_EPOCHS, UNREST = 8, 1.5
"""For how long rounding errors stay small, and by how much they may grow in each epoch after that.

With other convolution kernels (oneDNN off) losses differ by at most 1e-5, except those of the first host of
digits_capable: they come to differ by 5e-3, and its trajectory does not pass. With twice as many batches others would
differ by 2e-2 at the end: when a ReLU opens for one sample more, that is a jump, and training enlarges it.
"""
FROM_ACCURACY = ("accuracy", "plateau", "contribution", "interaction", "boost")
COUNTED = ("stage", "action_executed", "seeds_created", "seeds_fossilized", "seeds_pruned", "seed_params", "flops")
MASKS = ("action_mask", "slot_by_op")
DECIMALS = 4
"""Inputs are rounded to so many places before they are hashed."""
EXACT_TERMS = ("rent", "shock", "op_cost", "stage", "governor")
CHANGED = (
    "The results of task {task!r} have changed ({what}). If that is not what you meant, it is a bug. "
    "If it is, see CONTRIBUTING.md on what makes a new -vN, and renew the golden trajectories with "
    "`python -m tests.properties.test_golden --renew`."
)


def scripts_of(task):
    """What the hosts of this task do, `{step: action}` each."""
    names, scripts = blueprint_names(), [{t: list(vector) for t, vector in script.items()} for script in SCRIPTS]
    if task == "story_grammar":
        for vector in (vector for script in scripts for vector in script.values()):
            vector[1] = names.index(FOR_TEXTS.get(names[vector[1]], names[vector[1]]))
    return scripts


def trajectory(task, folder):
    """What the scripts lead to: one row per epoch, plain data; `folder` holds the archive of CIFAR-10."""
    options, scripts = OPTIONS | {"data_dir": str(folder)}, scripts_of(task)
    if task == "story_grammar":
        options["training"] = OPTIONS["training"] | TEXTS
    if task.startswith("cifar10"):
        options["training"] = OPTIONS["training"] | PHOTOGRAPHS
    envs = SeedVectorEnv(len(scripts), task=task, autoreset_mode="disabled", **options)
    observation, info = envs.reset(seed=SEED)
    rows = [row(observation, info)]
    for step in range(EPOCHS):
        observation, _, _, _, info = envs.step(np.array([script.get(step, action()) for script in scripts]))
        rows.append(row(observation, info))
    return rows


def row(observation, info):
    """One epoch of all hosts, rounded to what matters."""
    exact = {name: info[name].astype(int).tolist() for name in COUNTED}
    masks = {name: ["".join(map(str, mask)) for mask in observation[name]] for name in MASKS}
    terms = {name: term for name, term in info["reward_terms"].items() if not name.startswith("_")}
    return {
        **(exact | masks),
        "train_loss": rounded(info["train_loss"]),
        "val_loss": rounded(info["val_loss"]),
        "score": rounded(info["score"]),
        "committed_accuracy": rounded(info["committed_accuracy"]),
        "test_accuracy": rounded(info["test_accuracy"]),
        "shapley": [rounded(host) for host in info["shapley"]],
        "reward_terms": {name: rounded(term) for name, term in terms.items()},
        "features": [rounded(host, 5) for host in observation["features"]],
    }


def rounded(values, digits=6):
    """Short numbers; adding 0 turns -0.0 into 0.0."""
    return [round(float(value), digits) + 0.0 for value in values]


def tolerances(num_slots):
    """How far each feature may be off: what comes from accuracies moves by whole samples."""
    table = features(num_slots)
    unit = np.array([max(f.unit, 1.0) for f in table])
    sampled = np.array([any(word in f.name for word in FROM_ACCURACY) for f in table])
    return np.where(sampled, 2.1 * ONE_SAMPLE / unit, FEATURE_ERROR)


def check(task, epoch, golden, found):
    """Compare one epoch: what is counted exactly, what is measured within what rounding explains."""
    growth = UNREST ** max(epoch - CALM_EPOCHS, 0)

    def close(what, one, other, atol, rtol=0.0):
        fits = np.allclose(np.array(one, float), np.array(other, float), rtol=rtol, atol=atol)
        assert fits, CHANGED.format(task=task, what=f"{what} was {one} and is {other}, epoch {epoch}")

    for name in COUNTED + MASKS:
        what = f"{name} was {golden[name]} and is {found[name]}, epoch {epoch}"
        assert golden[name] == found[name], CHANGED.format(task=task, what=what)
    for name in ("train_loss", "val_loss"):
        close(name, golden[name], found[name], 1e-6, LOSS_ERROR * growth)
    for name in ("score", "committed_accuracy"):
        close(name, golden[name], found[name], 1.1 * ONE_SAMPLE * growth)
    close("test_accuracy", golden["test_accuracy"], found["test_accuracy"], TEST_ERROR)
    close("shapley", golden["shapley"], found["shapley"], 2.1 * ONE_SAMPLE * growth)
    assert golden["reward_terms"].keys() == found["reward_terms"].keys()
    for name, term in golden["reward_terms"].items():
        error = 1e-5 if name in EXACT_TERMS else 0.22 * ONE_SAMPLE * growth
        close(f"reward term {name}", term, found["reward_terms"][name], error)
    num_slots = len(golden["stage"][0])
    one, other = np.array(golden["features"]), np.array(found["features"])
    off = np.abs(one - other) > tolerances(num_slots) * growth
    names = [features(num_slots)[i].name for i in np.flatnonzero(off.any(0))]
    assert not names, CHANGED.format(task=task, what=f"features {names}, epoch {epoch}")


def defaults(task, folder):
    """What this task is made of and what an environment of it trains by, unless told otherwise; plain data.

    Also a hash of each split, where no download is needed for it: that of `SEED`, or of the archive in `folder`.
    """
    config, row = resolve({"task": task})
    made = {f.name: getattr(row, f.name) for f in fields(row) if f.name not in ("name", "summary", "source", "host")}
    found = {"config": config.to_dict(), "made": made, "host": asdict(row.host)}
    if task in QUICK_TASKS:
        simulation = simulate(1, task=task, seeds=[SEED], data_dir=str(folder))
        splits = simulation.population.data[0].tensors.items()
        found["data"] = {name: [fingerprint(tensor) for tensor in split] for name, split in splits}
    return json.loads(json.dumps(found))


def fingerprint(tensor):
    """A hash of whole numbers, and of others to `DECIMALS` places, which is where rounding on other processors ends."""
    scale = 10.0**DECIMALS if tensor.is_floating_point() else 1.0
    numbers = np.rint(tensor.numpy() * scale).astype("<i8")
    return hashlib.sha256(f"{numbers.shape}".encode() + numbers.tobytes()).hexdigest()[:16]


def differing(one, other, name=""):
    """Yield `name was one and is other` of what differs in two nested dictionaries."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        if one != other:
            yield f"{name} was {one!r} and is {other!r}"
        return
    for key in [*one, *(key for key in other if key not in one)]:
        yield from differing(one.get(key), other.get(key), f"{name}.{key}" if name else key)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """The archive of CIFAR-10 that the golden trajectories were made with."""
    folder = tmp_path_factory.mktemp("golden_cifar")
    write_cifar(folder, IMAGES)
    return folder


@pytest.mark.parametrize("task", QUICK_TASKS)
def test_results_are_those_of_the_golden_trajectory(task, archive):
    golden = json.loads((FOLDER / f"{task}.json").read_text())
    for epoch, (one, other) in enumerate(zip(golden, trajectory(task, archive), strict=True)):
        check(task, epoch, one, other)


@pytest.mark.parametrize("task", TASKS)
def test_defaults_and_data_are_those_of_the_golden_table(task, archive):
    golden = json.loads((FOLDER / "defaults.json").read_text())
    assert golden.keys() <= TASKS.keys()
    changes = "; ".join(differing(golden.get(task, {}), defaults(task, archive)))
    assert not changes, CHANGED.format(task=task, what=changes)


@pytest.mark.parametrize(
    "change", [{"batch_size": 65}, {"max_epochs": 49}, {"min_training_epochs": 4}, {"augment": True}]
)
def test_another_default_of_a_task_is_noticed(change, archive, monkeypatch):
    monkeypatch.setitem(TASKS, "digits", replace(TASKS["digits"], **change))
    with pytest.raises(AssertionError, match=rf"have changed .*{next(iter(change))} was .* -vN"):
        test_defaults_and_data_are_those_of_the_golden_table("digits", archive)


@pytest.mark.parametrize("task", QUICK_TASKS)
def test_every_blueprint_that_suits_the_host_is_blended_in_the_golden_trajectory(task):
    golden, blended = json.loads((FOLDER / f"{task}.json").read_text()), set()
    for host, script in enumerate(scripts_of(task)):
        planted = {}
        for step, epoch in enumerate(golden[1:]):
            vector = script.get(step, action())
            if vector[-1] == Op.GERMINATE:
                planted[vector[0]] = blueprint_names()[vector[1]]
            blended |= {name for slot, name in planted.items() if BLENDED[epoch["stage"][host][slot]]}
    assert blended == set(resolve({"task": task})[0].blueprints)


def test_the_golden_trajectories_contain_every_op_and_stage():
    golden = json.loads((FOLDER / "digits.json").read_text())
    asked = np.array([vector for script in SCRIPTS for vector in script.values()])
    assert set(asked[:, -1]) == {op for op in Op if op}
    assert {stage for epoch in golden for host in epoch["stage"] for stage in host} == set(range(1, 10))
    executed = np.array([epoch["action_executed"] for epoch in golden])
    assert (executed == 0).sum() == 1


@pytest.mark.parametrize(
    ("task", "change"),
    [
        ("digits", {"host_lr": 0.0501}),
        ("digits", {"momentum": 0.899}),
        ("digits", {"proximal": 1.3}),
        ("cifar10_baseline", {"momentum": 0.89}),
    ],
)
def test_a_slight_change_of_training_does_not_pass_for_noise(task, change, archive, monkeypatch):
    monkeypatch.setitem(OPTIONS, "training", OPTIONS["training"] | change)
    with pytest.raises(AssertionError, match=r"have changed .* -vN"):
        test_results_are_those_of_the_golden_trajectory(task, archive)


def renew():
    """Write every golden file anew: trajectories with one epoch per line, defaults with one group of them per line."""
    with tempfile.TemporaryDirectory() as folder:
        write_cifar(Path(folder), IMAGES)
        for task in QUICK_TASKS:
            lines = ",\n".join(json.dumps(epoch, separators=(",", ":")) for epoch in trajectory(task, folder))
            (FOLDER / f"{task}.json").write_text(f"[\n{lines}\n]\n")
        tables = []
        for task in TASKS:
            groups = defaults(task, folder).items()
            lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(group)}" for name, group in groups)
            tables.append(f" {json.dumps(task)}: {{\n{lines}\n }}")
        (FOLDER / "defaults.json").write_text("{\n" + ",\n".join(tables) + "\n}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--renew", action="store_true", required=True, help="write the files anew")
    parser.parse_args()
    torch.set_num_threads(1)
    renew()
