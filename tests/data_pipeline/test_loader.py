"""Batches: order, hosts, resume, contract."""

import itertools
import time
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import Float32, Int32, UInt8
from PIL import Image

from bokeh_jax.errors import InvalidInput
from data_pipeline.builder import build
from data_pipeline.layered import LayeredSource
from data_pipeline.loader import LoaderConfig, load_split, make_loader
from data_pipeline.photo_folder import PhotoFolderSource

SIZE_PX = 16
NUM_TRAIN = 23
BATCH = 8


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("loader") / "scenes"
    counts = {"train": NUM_TRAIN, "eval_seen": 5}
    build(LayeredSource(size_px=SIZE_PX), path, counts=counts, num_workers=0)
    return path


def _config(path: Path, **fields) -> LoaderConfig:
    defaults = {"global_batch_size": BATCH, "num_threads": 0}
    return LoaderConfig(path, **(defaults | fields))


def _take(config: LoaderConfig, count: int, **where) -> list[dict]:
    batches = make_loader(config, **where)
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def _ids(batches: list[dict]) -> list[int]:
    return [int(i) for batch in batches for i in batch["scene_id"]]


def _assert_same(found: list[dict], expected: list[dict]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
            assert one[name].dtype == other[name].dtype


def test_batches_are_as_the_contract_says(dataset):
    (batch,) = _take(_config(dataset), 1)
    assert set(batch) == {"layers", "layer_disparity", "scene_id"}
    assert isinstance(batch["layers"], UInt8[np.ndarray, "8 5 16 16 4"])
    assert isinstance(batch["layer_disparity"], Float32[np.ndarray, "8 5 3"])
    assert isinstance(batch["scene_id"], Int32[np.ndarray, "8"])


def test_every_row_is_the_scene_its_id_names(dataset):
    stored = load_split(dataset, "train")
    for batch in _take(_config(dataset), 4):
        for name in ("layers", "layer_disparity"):
            np.testing.assert_array_equal(batch[name], stored[name][batch["scene_id"]])


@pytest.mark.parametrize("batch_size", [1, 8, 23, 50])
def test_every_epoch_holds_every_scene_once(dataset, batch_size):
    needed = -(-3 * NUM_TRAIN // batch_size)
    ids = _ids(_take(_config(dataset, global_batch_size=batch_size), needed))
    epochs = [ids[i * NUM_TRAIN : (i + 1) * NUM_TRAIN] for i in range(3)]
    assert all(sorted(epoch) == list(range(NUM_TRAIN)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_order_of_rows_does_not_depend_on_the_batch_size(dataset):
    def ids(size: int) -> list[int]:
        return _ids(_take(_config(dataset, global_batch_size=size), 48 // size))

    assert ids(1) == ids(6) == ids(48)


def test_shuffling_is_thorough_and_seeded(dataset):
    def ids(seed: int) -> list[int]:
        return _ids(_take(_config(dataset, seed=seed), 6))

    assert ids(0) == ids(0)
    firsts = [ids(seed)[:NUM_TRAIN] for seed in range(12)]
    assert len({tuple(first) for first in firsts}) == 12
    # Two permutations of 23 agree in one place on average; sorted order would agree in all.
    assert max(sum(i == j for i, j in enumerate(first)) for first in firsts) < 8
    # Runs with neighbouring seeds do not run through the same epochs one later.
    assert ids(1)[:NUM_TRAIN] != ids(0)[NUM_TRAIN : 2 * NUM_TRAIN]


def test_without_shuffling_rows_keep_the_stored_order(dataset):
    ids = _ids(_take(_config(dataset, shuffle=False), 6))
    assert ids == [i % NUM_TRAIN for i in range(48)]


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_together_read_the_global_batch(dataset, hosts):
    expected = _take(_config(dataset), 7)
    parts = [
        _take(_config(dataset), 7, process_index=host, process_count=hosts) for host in range(hosts)
    ]
    joined = [
        {name: np.concatenate([part[name] for part in step]) for name in step[0]}
        for step in zip(*parts, strict=True)
    ]
    assert all(len(batch["scene_id"]) == BATCH // hosts for part in parts for batch in part)
    _assert_same(joined, expected)


@pytest.mark.parametrize("start_step", [1, 3, 9])
def test_starting_later_is_skipping(dataset, start_step):
    for host in range(2):
        where = {"process_index": host, "process_count": 2}
        whole = _take(_config(dataset), start_step + 3, **where)
        _assert_same(_take(_config(dataset), 3, start_step=start_step, **where), whole[start_step:])


def test_a_late_start_replays_nothing(dataset):
    """At the epoch's length a step of 10⁹ is step 10⁹ mod 23 of some epoch, reached at once."""
    config = _config(dataset, shuffle=False)
    start = time.monotonic()
    (batch,) = _take(config, 1, start_step=10**9)
    assert time.monotonic() - start < 5
    assert list(batch["scene_id"]) == [(10**9 * BATCH + i) % NUM_TRAIN for i in range(BATCH)]


@pytest.mark.parametrize("fields", [{"num_threads": 2}, {"num_workers": 2}])
def test_threads_and_processes_change_nothing(dataset, fields):
    where = {"start_step": 2, "process_index": 1, "process_count": 2}
    expected = _take(_config(dataset), 6, **where)
    found = make_loader(_config(dataset, **fields), **where)
    _assert_same([next(found) for _ in range(6)], expected)
    found.close()


def test_layers_are_filled_up(dataset):
    (wide,) = _take(_config(dataset, max_layers=7), 1)
    (plain,) = _take(_config(dataset), 1)
    assert wide["layers"].shape[1] == wide["layer_disparity"].shape[1] == 7
    np.testing.assert_array_equal(wide["layers"][:, :5], plain["layers"])
    assert not wide["layers"][:, 5:].any()
    assert not wide["layer_disparity"][:, 5:].any()


def test_photographs(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for index in range(3):
        pixels = rng.integers(0, 256, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{index}.png")
        np.save(tmp_path / "photos" / f"{index}.disparity.npy", rng.random((SIZE_PX, SIZE_PX)))
    source = PhotoFolderSource(tmp_path / "photos", size_px=SIZE_PX, heldout_fraction=0.0)
    build(source, tmp_path / "out", num_workers=0)
    stored = load_split(tmp_path / "out", "train")
    for batch in _take(_config(tmp_path / "out", global_batch_size=2), 3):
        assert set(batch) == {"image", "disparity", "scene_id"}
        assert isinstance(batch["image"], UInt8[np.ndarray, "2 16 16 3"])
        assert isinstance(batch["disparity"], Float32[np.ndarray, "2 16 16"])
        for name in ("image", "disparity"):
            np.testing.assert_array_equal(batch[name], stored[name][batch["scene_id"]])


@pytest.mark.parametrize(
    ("fields", "where", "message"),
    [
        ({"global_batch_size": 0}, {}, "global_batch_size is 0; allowed: 1 to"),
        ({"seed": -1}, {}, "seed is -1; allowed: 0 to 4294967295"),
        ({"num_workers": -1}, {}, "num_workers is -1"),
        ({"num_threads": -1}, {}, "num_threads is -1"),
        ({"split": "eval"}, {}, "split is 'eval'; allowed in .*: train, eval_seen"),
        ({"max_layers": 4}, {}, "max_layers is 4; allowed: at least 5"),
        ({}, {"start_step": -1}, "start_step is -1"),
        ({}, {"process_count": 0}, "process_count is 0"),
        ({}, {"process_index": 2, "process_count": 2}, "process_index is 2; allowed: 0 to 1"),
        ({}, {"process_count": 3}, "global_batch_size is 8; allowed with 3 hosts: multiples of 3"),
    ],
)
def test_bad_values_are_refused(dataset, fields, where, message):
    with pytest.raises(InvalidInput, match=message):
        make_loader(_config(dataset, **fields), **where)
