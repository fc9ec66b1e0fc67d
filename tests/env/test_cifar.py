"""CIFAR-10 is read from either archive, damage is named, and what is augmented is every host's own."""

import io
import os
import pickle
import struct
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from esper_env.actions import Op
from esper_env.config import ConfigError
from esper_env.env import SeedEnv
from esper_env.network.cnn import CnnHost
from esper_env.network.images import MARGIN, VIEWS, seen, side_by_side
from esper_env.tasks import TASKS
from esper_env.tasks.cifar import Cifar10
from esper_env.waiting import waiting_twin
from tests.conftest import HASTY, QUICK_TASKS, action, simulate, step, write_cifar
from tests.properties.fingerprints import differences

SPLITS = ("train", "val", "test")
CIFAR = [name for name in TASKS if name.startswith("cifar10")]
BRIEF = {"batches_per_epoch": 1, "batch_size": 8}
IMAGES = 20


def python2_pickle(pixels, labels):
    """The bytes of a batch as Python 2 wrote those of the archive: protocol 2, with strings of bytes."""

    def text(content):
        return b"T" + struct.pack("<i", len(content)) + content

    def number(value):
        return b"J" + struct.pack("<i", value)

    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + number(0) + b"\x85" + text(b"b") + b"\x87R"
    kind = b"cnumpy\ndtype\n" + text(b"u1") + number(0) + number(1) + b"\x87R"
    kind += b"(" + number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    shape = number(len(pixels)) + number(3072) + b"\x86"
    array += b"(" + number(1) + shape + kind + b"\x89" + text(pixels.tobytes()) + b"tb"
    listed = b"](" + b"".join(number(int(label)) for label in labels) + b"e"
    name = text(b"batch_label") + text(b"training batch 1 of 5")
    return b"\x80\x02}(" + name + text(b"labels") + listed + text(b"data") + array + b"u."


def python3_pickle(pixels, labels):
    """The bytes of a batch as today's NumPy writes it."""
    batch = {"data": pixels.reshape(len(pixels), 3072), "labels": [int(label) for label in labels]}
    return pickle.dumps(batch, protocol=2)


def write_python(folder, dump=python2_pickle):
    """The images of `write_cifar` as pickled batches."""
    written = write_cifar(folder)
    for name, (pixels, labels) in written.items():
        (folder / name).unlink()
        (folder / name.removesuffix(".bin")).write_bytes(dump(pixels, labels))
    return written


WRITERS = {
    "binary": write_cifar,
    "python": write_python,
    "python3": lambda folder: write_python(folder, python3_pickle),
}


@pytest.fixture(params=WRITERS)
def archive(request, tmp_path):
    """A folder in each layout, with what was written to it."""
    return tmp_path, WRITERS[request.param](tmp_path)


def equal(one, other):
    return all(
        np.array_equal(getattr(one, name).inputs, getattr(other, name).inputs)
        and np.array_equal(getattr(one, name).labels, getattr(other, name).labels)
        for name in SPLITS
    )


# Reading


def test_every_image_is_in_one_split_with_its_label_and_validation_comes_out_of_training(archive):
    folder, written = archive
    data = Cifar10(folder).load()
    assert [len(getattr(data, name)) for name in SPLITS] == [90, 10, 20]
    batches = [*written.values()]
    training = np.concatenate([pixels for pixels, _ in batches[:-1]]).transpose(0, 2, 3, 1)
    labels = np.concatenate([labels for _, labels in batches[:-1]])
    seen_before = {image.tobytes(): label for image, label in zip(training, labels, strict=True)}
    inputs, targets = np.concatenate([data.train.inputs, data.val.inputs]), [*data.train.labels, *data.val.labels]
    assert inputs.dtype == np.float32
    assert data.train.labels.dtype == np.int64
    # One affine map a channel takes the pixels back, and then every image is there once with its label.
    low, high = inputs.min((0, 1, 2)), inputs.max((0, 1, 2))
    restored = np.rint((inputs - low) / (high - low) * 255).astype(np.uint8)
    assert {image.tobytes(): label for image, label in zip(restored, targets, strict=True)} == seen_before
    test = np.rint((data.test.inputs - low) / (high - low) * 255).astype(np.uint8)
    np.testing.assert_array_equal(test, batches[-1][0].transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(data.test.labels, batches[-1][1])


def test_pixels_are_normalised_by_the_training_part(archive):
    train = Cifar10(archive[0]).load().train.inputs.astype(np.float64)
    np.testing.assert_allclose(train.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(train.std((0, 1, 2)), 1, atol=1e-5)


def test_validation_has_the_classes_in_proportion(archive):
    assert np.bincount(Cifar10(archive[0]).load().val.labels).tolist() == [1] * 10


def test_both_archives_hold_the_same_data(tmp_path):
    sets = []
    for name, write in WRITERS.items():
        (tmp_path / name).mkdir()
        write(tmp_path / name)
        sets.append(Cifar10(tmp_path / name).load())
    assert equal(sets[0], sets[1])
    assert equal(sets[0], sets[2])


@pytest.mark.parametrize(
    ("folder", "write"), [("cifar-10-batches-py", write_python), ("cifar-10-batches-bin", write_cifar)]
)
def test_the_folder_that_an_archive_unpacks_to_is_found(tmp_path, cifar_folder, folder, write):
    (tmp_path / folder).mkdir()
    write(tmp_path / folder)
    assert equal(Cifar10(tmp_path).load(), Cifar10(cifar_folder).load())


def test_a_complete_layout_is_taken_before_an_incomplete_one(tmp_path, cifar_folder):
    write_python(tmp_path)
    (tmp_path / "data_batch_2").unlink()
    write_cifar(tmp_path)
    assert equal(Cifar10(tmp_path).load(), Cifar10(cifar_folder).load())


def test_pixels_that_lie_column_by_column_are_read_in_their_order(tmp_path, cifar_folder):
    for name, (pixels, labels) in write_python(tmp_path).items():
        batch = {"data": np.asfortranarray(pixels.reshape(len(pixels), 3072)), "labels": labels.tolist()}
        (tmp_path / name.removesuffix(".bin")).write_bytes(pickle.dumps(batch, protocol=2))
    assert equal(Cifar10(tmp_path).load(), Cifar10(cifar_folder).load())


def test_a_channel_that_is_the_same_everywhere_has_no_deviation_to_divide_by(tmp_path):
    write_cifar(tmp_path)
    for path in tmp_path.iterdir():
        records = np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 3073).copy()
        records[:, 1:1025] = 200
        path.write_bytes(records.tobytes())
    data = Cifar10(tmp_path).load()
    for part in (data.train, data.val, data.test):
        assert not part.inputs[..., 0].any()
        assert part.inputs[..., 1].any()


def test_a_file_of_the_same_length_written_later_is_read_anew(tmp_path):
    write_cifar(tmp_path)
    path = tmp_path / "test_batch.bin"
    before = Cifar10(tmp_path).load().test.labels
    records = np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 3073)
    stamp = path.stat().st_mtime_ns + 10**9
    path.write_bytes(records[::-1].tobytes())
    os.utime(path, ns=(stamp, stamp))
    np.testing.assert_array_equal(Cifar10(tmp_path).load().test.labels, before[::-1])


def test_environments_share_one_copy_until_the_files_change(tmp_path):
    write_cifar(tmp_path)
    first = Cifar10(tmp_path).load()
    assert Cifar10(tmp_path / ".." / tmp_path.name).load() is first
    address = first.train.inputs.ctypes.data
    for envs in (1, 4):
        simulation = simulate(envs, task="cifar10_baseline", data_dir=str(tmp_path), training=BRIEF, chunk=2)
        assert {splits.tensors["train"][0].data_ptr() for splits in simulation.population.data} == {address}
    write_cifar(tmp_path, images=30)
    assert len(Cifar10(tmp_path).load().test) == 30


# Where the files are


def test_the_place_is_the_argument_then_the_sources_own_then_the_environment_variable(tmp_path, monkeypatch):
    elsewhere = str(tmp_path / "asked")
    with pytest.raises(ConfigError, match="asked"):
        Cifar10(tmp_path / "own").at(elsewhere, False).load()
    with pytest.raises(ConfigError, match="own"):
        Cifar10(tmp_path / "own").at(None, False).load()
    monkeypatch.setenv("ESPER_DATA_DIR", str(tmp_path / "variable"))
    with pytest.raises(ConfigError, match="variable"):
        Cifar10().at(None, False).load()
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=str(tmp_path / "there")):
        Cifar10(Path("~/there")).load()


def test_an_environment_without_data_says_what_to_do_and_works_when_told(tmp_path, monkeypatch):
    monkeypatch.delenv("ESPER_DATA_DIR")
    env = SeedEnv(task="cifar10_impaired", training=BRIEF)
    with pytest.raises(ConfigError, match=r"give data_dir=.*ESPER_DATA_DIR.*data_batch_1\.bin.*kriz/cifar\.html"):
        env.reset(seed=1)
    write_cifar(tmp_path)
    told = {"data_dir": str(tmp_path), "training": BRIEF, "max_epochs": 2}
    SeedEnv(task="cifar10_impaired", **told).reset(seed=1)
    assert waiting_twin("cifar10_impaired", 1, **told).test_accuracy >= 0


def test_tasks_without_files_ignore_where_files_are(tmp_path):
    options = {"training": {"batches_per_epoch": 1, "val_samples": 32}, "max_epochs": 2}
    env, plain = (SeedEnv(**options | more) for more in ({"data_dir": str(tmp_path / "none"), "download": True}, {}))
    np.testing.assert_array_equal(env.reset(seed=1)[0]["features"], plain.reset(seed=1)[0]["features"])


@pytest.mark.parametrize("missing", [[3], [1, 5], ["test"]])
def test_missing_batches_are_named_with_the_folder_and_the_way_to_get_them(archive, missing):
    folder, _ = archive
    suffix = "" if (folder / "test_batch").exists() else ".bin"
    names = ["test_batch" + suffix if i == "test" else f"data_batch_{i}{suffix}" for i in missing]
    for name in names:
        (folder / name).rename(folder / f"old_{name}")
    with pytest.raises(
        ConfigError, match=rf"{folder} is not complete: {', '.join(names)} missing.*kriz/cifar"
    ) as caught:
        Cifar10(folder).load()
    assert "cifar-10-python.tar.gz" in str(caught.value)


def test_an_empty_or_absent_directory_is_named_with_what_is_expected_there(tmp_path):
    for folder, words in ((tmp_path, "There is no CIFAR-10 in"), (tmp_path / "absent", "which is no directory")):
        with pytest.raises(ConfigError, match=words) as caught:
            Cifar10(folder).load()
        for part in (str(folder), "data_batch_1 to data_batch_5 and test_batch", "unpack it there", "download=True"):
            assert part in str(caught.value)


# Damage


def damaged(folder, name, content):
    """The message for a batch with this content."""
    (folder / name).write_bytes(content)
    with pytest.raises(ConfigError, match="is damaged") as caught:
        Cifar10(folder).load()
    message = str(caught.value)
    assert str(folder / name) in message
    assert "unpack the archive" in message
    return message


@pytest.mark.parametrize("length", [1, 3072, 3073 * 4 + 17, 3073 * IMAGES - 1])
def test_a_record_that_is_cut_is_refused(tmp_path, length):
    write_cifar(tmp_path)
    content = (tmp_path / "data_batch_2.bin").read_bytes()[:length]
    assert f"{length:,} bytes are no whole number of records" in damaged(tmp_path, "data_batch_2.bin", content)


@pytest.mark.parametrize("name", ["data_batch_4.bin", "test_batch.bin"])
def test_a_batch_cut_between_records_is_told_by_its_length(tmp_path, name):
    write_cifar(tmp_path)
    content = (tmp_path / name).read_bytes()[: 3073 * 7]
    assert "holds 7 images where other batches hold 20" in damaged(tmp_path, name, content)
    assert "no images" in damaged(tmp_path, name, b"")


@pytest.mark.parametrize("label", [10, 77, 255])
def test_a_label_of_no_class_is_refused(tmp_path, label):
    write_cifar(tmp_path)
    content = bytearray((tmp_path / "test_batch.bin").read_bytes())
    content[3073 * 5] = label
    assert f"a label {label}, but labels are 0 to 9" in damaged(tmp_path, "test_batch.bin", bytes(content))


@given(share=st.floats(0, 0.999))
def test_a_pickle_that_is_cut_anywhere_is_refused(tmp_path_factory, share):
    folder = tmp_path_factory.mktemp("cut")
    write_python(folder)
    content = (folder / "data_batch_3").read_bytes()
    damaged(folder, "data_batch_3", content[: int(share * len(content))])


ROWS = np.zeros((IMAGES, 3072), np.uint8)
LABELS = [0] * IMAGES


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"data": ROWS, "labels": [*LABELS[1:], 10]}, "a label 10"),
        ({"data": ROWS, "labels": [*LABELS[1:], -1]}, "a label -1"),
        ({"data": ROWS, "labels": [*LABELS[1:], 10**30]}, "a label 1000"),
        ({"data": ROWS, "labels": [*LABELS[1:], 1.0]}, "no list of whole numbers"),
        ({"data": ROWS, "labels": [*LABELS[1:], True]}, "no list of whole numbers"),
        ({"data": ROWS, "labels": "0" * IMAGES}, "no list of whole numbers"),
        ({"data": ROWS, "labels": LABELS[1:]}, "20 images and 19 labels"),
        ({"data": ROWS[1:], "labels": LABELS}, "19 images and 20 labels"),
        ({"data": ROWS[:, 1:], "labels": LABELS}, r"of shape (20, 3071), not bytes of shape (images, 3072)"),
        ({"data": ROWS.reshape(IMAGES, 3, 32, 32), "labels": LABELS}, "of shape (20, 3, 32, 32)"),
        ({"data": ROWS.astype(np.float32), "labels": LABELS}, "an array of type 'f4', not of bytes"),
        ({"data": ROWS.tolist(), "labels": LABELS}, "a list"),
        ({"data": ROWS, "fine_labels": LABELS}, "no dictionary with 'data' and 'labels'"),
        ([ROWS, LABELS], "no dictionary"),
    ],
)
def test_a_pickle_that_holds_something_else_is_refused(tmp_path, batch, message):
    write_python(tmp_path)
    assert message in damaged(tmp_path, "data_batch_1", pickle.dumps(batch, protocol=2))


class Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("evil", "name"),
    [
        (Evil(os.mkdir, "made"), "mkdir"),
        (Evil(eval, "__import__('os').mkdir('made')"), "eval"),
        (Evil(exec, "import os; os.mkdir('made')"), "exec"),
        (Evil(getattr, "", "join"), "getattr"),
        (Evil(np.load, "anything"), "load"),
        (np.random.default_rng(0), "generator"),
        (Path("made"), "pathlib"),
    ],
)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_cannot_run_anything(tmp_path, monkeypatch, evil, name, protocol):
    monkeypatch.chdir(tmp_path)
    write_python(tmp_path)
    batch = {"data": ROWS, "labels": LABELS, "batch_label": evil}
    out = io.BytesIO()
    pickle.Pickler(out, protocol).dump({"batch_label": evil} | batch)
    message = damaged(tmp_path, "data_batch_5", out.getvalue())
    assert name in message
    assert "no need of" in message
    assert not (tmp_path / "made").exists()


def test_a_batch_that_cannot_be_opened_is_named(tmp_path, monkeypatch):
    write_cifar(tmp_path)
    real = Path.read_bytes

    def refused(path):
        if path.name == "data_batch_1.bin":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(ConfigError, match=r"data_batch_1\.bin cannot be read: Permission denied"):
        Cifar10(tmp_path).load()


# Downloading


def torchvision(monkeypatch, fetch):
    """A torchvision whose CIFAR10 calls `fetch(root)`."""
    package, datasets = ModuleType("torchvision"), ModuleType("torchvision.datasets")

    def cifar10(root, download):
        assert download is True
        fetch(Path(root))

    datasets.CIFAR10 = cifar10
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", datasets)


def test_what_is_missing_is_downloaded_once_and_only_when_asked(tmp_path, monkeypatch, cifar_folder):
    fetched = []

    def fetch(root):
        fetched.append(root)
        (root / "cifar-10-batches-py").mkdir(parents=True)
        write_python(root / "cifar-10-batches-py")

    torchvision(monkeypatch, fetch)
    place = tmp_path / "new"
    with pytest.raises(ConfigError, match="download=True"):
        Cifar10(place).load()
    for _ in range(2):
        assert equal(Cifar10(place, download=True).load(), Cifar10(cifar_folder).load())
    assert fetched == [place]
    SeedEnv(task="cifar10_impaired", data_dir=str(tmp_path / "other"), download=True, training=BRIEF).reset(seed=1)
    assert fetched == [place, tmp_path / "other"]


def test_a_task_whose_source_downloads_does_so_in_every_environment(tmp_path):
    assert Cifar10(download=True).at(str(tmp_path), False).download
    assert Cifar10().at(str(tmp_path), True).download
    assert not Cifar10().at(str(tmp_path), False).download


@pytest.mark.parametrize("error", [OSError("no route to host"), RuntimeError("File not found or corrupted.")])
def test_a_download_that_fails_says_so(tmp_path, monkeypatch, error):
    def fetch(root):
        raise error

    torchvision(monkeypatch, fetch)
    with pytest.raises(ConfigError, match=rf"could not fetch CIFAR-10 into {tmp_path}: {error}.*kriz/cifar"):
        Cifar10(tmp_path, download=True).load()


def test_a_download_without_torchvision_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(ConfigError, match=r"pip install 'esper-env\[data\]', or unpack cifar-10-python\.tar\.gz"):
        Cifar10(tmp_path, download=True).load()


def test_a_torchvision_of_another_torch_is_told_from_a_missing_one(tmp_path, monkeypatch):
    def import_module(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("esper_env.tasks.cifar.importlib", SimpleNamespace(import_module=import_module))
    with pytest.raises(ConfigError, match=r"does not run with this torch \(operator .* does not exist\)\. Install"):
        Cifar10(tmp_path, download=True).load()


def test_torchvision_is_never_imported_where_the_files_are_there(cifar_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    Cifar10(cifar_folder, download=True).load()


# The tasks


def test_the_presets_are_those_of_the_specification():
    table = {
        "cifar10_baseline": ((8, 16, 32), 3, 3),
        "cifar10_impaired": ((1, 2, 4), 1, 3),
        "cifar10_minimal": ((2, 4, 8), 1, 0),
        "cifar10_scale": ((8, 16, 32, 64, 128), 3, 5),
        "cifar10_multichannel": ((8, 16, 32), 3, 3),
        "cifar10_postpool": ((16, 32, 64), 3, 3),
        "cifar10_highres": ((16, 32, 64), 3, 3),
        "cifar10_deep_multichannel": ((8, 16, 32, 64, 128), 3, 5),
        "cifar10_deep_impaired": ((2, 4, 8, 16, 32), 1, 5),
    }
    assert {n: (TASKS[n].host.channels, TASKS[n].host.kernel, TASKS[n].host.pools) for n in CIFAR} == table
    for task in map(TASKS.get, CIFAR):
        assert (task.batch_size, task.host_lr, task.max_epochs, task.min_training_epochs) == (128, 0.01, 25, 10)
        assert (task.chance_loss, task.target_loss) == (np.log(10), 0.3)
        assert task.host.slot_after_pool is (task.name == "cifar10_postpool")
        assert len(task.host.slots) == len(task.host.channels)
        assert task.augment
    assert not any(task.augment for name, task in TASKS.items() if name not in CIFAR)


# Augmentation


def plainly_seen(image, view):
    """The image `[h, w, c]` as a view shows it, the plain way."""
    (height, width), side = image.shape[:2], 2 * MARGIN + 1
    down, right = divmod(view // 2, side)
    window = F.pad(image, (0, 0, MARGIN, MARGIN, MARGIN, MARGIN))[down : down + height, right : right + width]
    return window.flip(1) if view % 2 else window


def test_every_view_is_a_shift_by_up_to_four_pixels_perhaps_mirrored():
    images = torch.randn(2, VIEWS, 6, 7, 3, generator=torch.Generator().manual_seed(0))
    views = torch.stack([torch.arange(VIEWS), torch.arange(VIEWS).flip(0)])
    found = seen(images, views)
    assert found.shape == images.shape
    for host in range(2):
        for sample in range(VIEWS):
            assert torch.equal(found[host, sample], plainly_seen(images[host, sample], int(views[host, sample])))
    unmoved = MARGIN * (2 * MARGIN + 1) + MARGIN
    assert torch.equal(seen(images, torch.full_like(views, 2 * unmoved)), images)
    assert torch.equal(seen(images, torch.full_like(views, 2 * unmoved + 1)), images.flip(3))


def test_views_are_drawn_evenly_and_gathered_with_their_samples():
    views = CnnHost.views(np.random.default_rng(0), 100 * VIEWS)
    counts = np.bincount(views, minlength=VIEWS)
    assert len(counts) == VIEWS
    assert counts.min() > 50
    inputs = torch.randn(2, 5, 8, 8, 3, generator=torch.Generator().manual_seed(0))
    batch, look = torch.tensor([[4, 0], [1, 3]]), torch.tensor([[7, 80], [161, 2]])
    for instance in (None, torch.arange(2)):
        gathered = CnnHost.gather(inputs, batch, instance, look)
        for sample in range(2):
            for host in range(2):
                image = inputs[0 if instance is None else host, batch[sample, host]]
                assert torch.equal(gathered[host, sample], plainly_seen(image, int(look[sample, host])))


@pytest.mark.parametrize(("hosts", "channels"), [(1, 1), (1, 3), (3, 1), (3, 3)])
def test_every_host_gets_its_own_samples_as_channels_side_by_side(hosts, channels):
    inputs = torch.randn(hosts, 5, 8, 6, channels, generator=torch.Generator().manual_seed(0))
    batch = torch.tensor([[4, 0, 2], [1, 3, 3], [0, 0, 4], [2, 1, 1]])[:, :hosts]

    def check(maps, sample_of, instances):
        for sample, row in enumerate(maps):
            for host, image in enumerate(row.split(channels)):
                source = inputs[host if instances else 0, sample_of(sample, host)]
                assert torch.equal(image, source.permute(2, 0, 1))

    for instance in (None, torch.arange(hosts)):
        maps = side_by_side(CnnHost.gather(inputs, batch, instance), hosts)
        assert maps.permute(0, 2, 3, 1).is_contiguous()
        check(maps, lambda sample, host: batch[sample, host], instance is not None)
        used = inputs if instance is not None else inputs[:1]
        spread = side_by_side(CnnHost.spread(used, slice(1, 4), torch.arange(hosts)), hosts)
        check(spread, lambda sample, _: 1 + sample, len(used) > 1)


def test_only_augmented_tasks_draw_views_and_only_for_training(monkeypatch):
    drawn = []
    real = CnnHost.views
    monkeypatch.setattr(CnnHost, "views", staticmethod(lambda rng, n: drawn.append(n) or real(rng, n)))
    for task in QUICK_TASKS:
        drawn.clear()
        step(simulate(2, task=task, training=BRIEF | {"val_samples": 16}))
        assert drawn == ([8, 8] if task in CIFAR else [])


def test_augmentation_changes_what_is_learnt_and_not_what_is_measured():
    augmented = simulate(2, task="cifar10_baseline", training=BRIEF)
    plain = simulate(2, task="cifar10_baseline", training=BRIEF)
    plain.task = replace(plain.task, augment=False)
    np.testing.assert_array_equal(augmented.signals.loss, plain.signals.loss)
    step(augmented)
    step(plain)
    assert (augmented.signals.train_loss != plain.signals.train_loss).all()


def test_an_epoch_repeats_bit_for_bit_and_draws_anew_in_the_next():
    one, other = (simulate(2, task="cifar10_highres", training=BRIEF) for _ in range(2))
    for _ in range(3):
        before = one.streams[0].order.bit_generator.state
        step(one)
        step(other)
        assert one.streams[0].order.bit_generator.state != before
    assert not differences(one.get_state(), other.get_state())


def test_states_forks_and_pickles_go_on_with_the_same_images_seen_the_same_way():
    brief = {"training": BRIEF, "lifecycle": HASTY, "max_epochs": 8}
    env, other = SeedEnv(task="cifar10_impaired", **brief), SeedEnv(task="cifar10_impaired", **brief)
    env.reset(seed=2)
    for vector in (action(Op.GERMINATE, 1, "conv_light"), action(Op.ADVANCE, 1), action(Op.ADVANCE, 1)):
        *_, info = env.step(np.array(vector))
        assert info["action_executed"]
    other.reset(seed=3)
    other.set_state(pickle.loads(pickle.dumps(env.get_state())))
    copies = [other, env.fork(), pickle.loads(pickle.dumps(env))]
    for _ in range(5):
        want = env.step(np.array(action()))
        for copied in copies:
            assert not differences(want, copied.step(np.array(action())))
    assert want[2]
