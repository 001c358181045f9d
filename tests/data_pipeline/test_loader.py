"""Batches: contract, shapes, sources, order, resume, bad records."""

import itertools
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from jaxtyping import Float32, Int32, UInt8, UInt16
from toy_source import ToySource

from bokeh_jax.errors import InvalidInput
from data_pipeline.builder import build
from data_pipeline.dataset import open_split
from data_pipeline.loader import LoaderConfig, make_loader, shapes
from data_pipeline.mixture import MixtureSource, Part

BATCH = 8
# Damaged scenes of a dataset, and what is read in their place.
REPLACEMENTS = {13: 15, 14: 15, 22: 0}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """Both kinds in two shapes each, from three sources."""
    path = tmp_path_factory.mktemp("loader") / "scenes"
    counts = {"train": 26, "eval_heldout": 4}
    parts = (
        Part(ToySource(), counts=counts, name="one"),
        Part(ToySource(seed=1), counts={"train": 14}, name="two"),
        # Its one layered scene has two layers; those of the others have up to four.
        Part(ToySource(seed=2), counts={"train": 2}, name="few"),
    )
    build(MixtureSource(parts), path, num_workers=0, max_damaged_share=0.5, scenes_per_shard=16)
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """One kind, one shape: the photographs of 16 x 16."""
    path = tmp_path_factory.mktemp("plain") / "scenes"
    build(_Squares(), path, counts={"train": 23}, num_workers=0, scenes_per_shard=10)
    return path


class _Squares(ToySource):
    """The square photographs of the toy."""

    def scene(self, split, index):
        return super().scene(split, 6 * index + 1 if index > 1 else 6 * index + 13)


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
    found = {}
    for batch in _take(_config(dataset), 30):
        if "layers" in batch:
            height, width = batch["layers"].shape[2:4]
            assert set(batch) == {"layers", "layer_disparity", "layer_gain", "scene_id"}
            assert isinstance(batch["layers"], UInt8[np.ndarray, f"8 4 {height} {width} 4"])
            assert isinstance(batch["layer_disparity"], Float32[np.ndarray, "8 4 3"])
            assert isinstance(batch["layer_gain"], Float32[np.ndarray, "8 4"])
            found["layered", height, width] = 4
        else:
            height, width = batch["image"].shape[1:3]
            assert set(batch) == {"image", "disparity", "scene_id"}
            assert isinstance(batch["image"], UInt8[np.ndarray, f"8 {height} {width} 3"])
            assert isinstance(batch["disparity"], UInt16[np.ndarray, f"8 {height} {width}"])
            found["photographs", height, width] = 0
        assert isinstance(batch["scene_id"], Int32[np.ndarray, "8"])
    listed = shapes(_config(dataset))
    assert {(s.kind, s.height_px, s.width_px): s.max_layers for s in listed} == found
    assert set(found) == {
        (kind, *frame) for kind in ("layered", "photographs") for frame in ((12, 18), (16, 16))
    }


def test_every_row_is_the_scene_its_id_names(dataset):
    stored = open_split(dataset, "train")
    for batch in _take(_config(dataset), 12):
        for row, position in enumerate(batch["scene_id"]):
            for name, value in stored[int(position)].items():
                filled = batch[name][row][: len(value)] if value.ndim else batch[name][row]
                np.testing.assert_array_equal(filled, value)


def test_batches_have_the_shape_and_place_that_the_loader_says(dataset):
    stored = open_split(dataset, "train")
    batches, drawn = make_loader(_config(dataset)), Counter()
    for step in range(20):
        batch, at = next(batches), batches.position_at(step)
        kind = "layered" if "layers" in batch else "photographs"
        frame = batch["layers"].shape[2:4] if kind == "layered" else batch["image"].shape[1:3]
        assert (at.shape.kind, at.shape.height_px, at.shape.width_px) == (kind, *frame)
        for place in at.groups:
            total = drawn[place.group.source, place.group.kind, *frame]
            assert (place.epoch, place.within) == divmod(total, place.group.num_scenes)
        for position in batch["scene_id"]:
            drawn[stored.groups[stored.group_of[position]].source, kind, *frame] += 1
    batches.close()


def test_sources_come_as_often_as_they_weigh(dataset):
    """Without weights scenes count alike, whatever source they are of."""
    stored = open_split(dataset, "train")

    def shares(**fields) -> dict[str, float]:
        ids = _ids(_take(_config(dataset, **fields), 100))
        found = Counter(stored.groups[stored.group_of[position]].source for position in ids)
        return {source: count / len(ids) for source, count in found.items()}

    counts = Counter[str]()
    for group in stored.groups:
        counts[group.source] += group.num_scenes
    by_number = {source: count / counts.total() for source, count in counts.items()}
    assert by_number["one"] > 5 * by_number["few"]
    assert shares() == pytest.approx(by_number, abs=0.03)
    alike = dict.fromkeys(("one", "two", "few"), 1.0)
    assert shares(weights=alike) == pytest.approx(dict.fromkeys(alike, 1 / 3), abs=0.03)
    assert shares(weights={"one": 3.0, "two": 1.0}) == pytest.approx(
        {"one": 0.75, "two": 0.25}, abs=0.03
    )
    assert shares(weights={"one": 0.0, "two": 1.0}) == {"two": 1.0}
    assert shares(split="eval_heldout") != {}


@pytest.mark.parametrize("batch_size", [1, 8, 23, 50])
def test_every_epoch_holds_every_scene_once(plain, batch_size):
    needed = -(-3 * 23 // batch_size)
    ids = _ids(_take(_config(plain, global_batch_size=batch_size), needed))
    epochs = [ids[i * 23 : (i + 1) * 23] for i in range(3)]
    assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_order_of_rows_does_not_depend_on_the_batch_size(plain):
    def ids(size: int) -> list[int]:
        return _ids(_take(_config(plain, global_batch_size=size), 48 // size))

    assert ids(1) == ids(6) == ids(48)


def test_another_seed_is_another_order(plain):
    firsts = [_ids(_take(_config(plain, seed=seed), 1)) for seed in (0, 0, 1, 2**32 - 1)]
    assert firsts[0] == firsts[1]
    assert len({tuple(first) for first in firsts}) == 3


def test_without_shuffling_rows_keep_the_stored_order(plain):
    ids = _ids(_take(_config(plain, shuffle=False), 6))
    assert ids == [i % 23 for i in range(48)]


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_together_read_the_global_batch(dataset, hosts):
    expected = _take(_config(dataset), 7)
    # Every host has every so many rows, as on a mesh that follows links and not hosts.
    parts = [_take(_config(dataset), 7, rows=range(host, BATCH, hosts)) for host in range(hosts)]
    joined = [
        {
            name: np.stack([part[name] for part in step], 1).reshape(
                BATCH, *step[0][name].shape[1:]
            )
            for name in step[0]
        }
        for step in zip(*parts, strict=True)
    ]
    assert all(len(batch["scene_id"]) == BATCH // hosts for part in parts for batch in part)
    _assert_same(joined, expected)


@pytest.mark.parametrize("start_step", [1, 9])
def test_starting_later_is_skipping(dataset, start_step):
    where = {"rows": (1, 4, 5)}
    whole = _take(_config(dataset), start_step + 3, **where)
    _assert_same(_take(_config(dataset), 3, start_step=start_step, **where), whole[start_step:])


def test_a_late_start_replays_nothing(plain):
    """Step 10⁹ is reached at once."""
    config = _config(plain, shuffle=False)
    start = time.monotonic()
    (batch,) = _take(config, 1, start_step=10**9)
    assert time.monotonic() - start < 5
    assert list(batch["scene_id"]) == [(10**9 * BATCH + i) % 23 for i in range(BATCH)]


def test_a_closed_loader_has_no_next_batch(plain):
    loader = make_loader(_config(plain, num_threads=1))
    next(loader)
    loader.close()
    assert list(loader) == []
    loader.close()


def test_layers_are_filled_up(dataset):
    narrow = next(b for b in _take(_config(dataset), 8) if "layers" in b)
    wide = next(b for b in _take(_config(dataset, max_layers=7), 8) if "layers" in b)
    assert wide["layers"].shape[1] == wide["layer_disparity"].shape[1] == 7
    for name in ("layers", "layer_disparity", "layer_gain"):
        np.testing.assert_array_equal(wide[name][:, :4], narrow[name])
    assert not wide["layers"][:, 4:].any()
    assert not wide["layer_disparity"][:, 4:].any()
    assert (wide["layer_gain"][:, 4:] == 1).all()
    assert {s.max_layers for s in shapes(_config(dataset, max_layers=7))} == {0, 7}


@pytest.fixture(scope="module")
def damaged(plain, tmp_path_factory) -> Path:
    """`plain` with half the bytes of scenes 13 and 14, in its second shard, and of its last, 22."""
    path = tmp_path_factory.mktemp("damaged") / "scenes"
    path.mkdir()
    for file in plain.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    stored = open_split(plain, "train")
    for first, end in ((10, 20), (20, 23)):
        writer = ArrayRecordWriter(str(path / stored.shard_of(first)[0]), "group_size:1")
        for position in range(first, end):
            whole = stored.records[position]
            writer.write(whole[: len(whole) // 2] if position in REPLACEMENTS else whole)
        writer.close()
    return path


@pytest.mark.parametrize("fields", [{}, {"num_threads": 2}, {"num_workers": 1}])
def test_a_bad_record_ends_the_run_and_is_named(damaged, fields):
    loader = make_loader(_config(damaged, shuffle=False, **fields))
    # No batch holds on to memory that it shares with the process that made it.
    assert all(value.flags.owndata for value in next(loader).values())
    with pytest.raises(InvalidInput, match=r"scene 13: record 3 of shard .*-00001-of-00003"):
        next(loader)
    loader.close()


def test_a_bad_record_is_skipped_counted_and_named_once(damaged, plain):
    lines = []
    config = _config(damaged, shuffle=False, on_bad_record="skip")
    loader = make_loader(config, warn=lines.append)
    expected = _take(_config(plain, shuffle=False), 9)
    found = [next(loader) for _ in range(9)]
    whole = open_split(plain, "train")
    for one, other in zip(found, expected, strict=True):
        meant = other["scene_id"].tolist()
        assert one["scene_id"].tolist() == [REPLACEMENTS.get(scene, scene) for scene in meant]
        for row, position in enumerate(one["scene_id"]):
            np.testing.assert_array_equal(one["image"][row], whole[int(position)]["image"])
    # 72 rows: three epochs and three rows.
    assert loader.num_replaced == 9
    assert len(lines) == 3
    assert lines[0].startswith("scene 13: record 3 of shard")
    assert lines[1].startswith("scene 14: record 4 of shard")
    assert lines[2].startswith("scene 22: record 2 of shard")
    assert lines[2].endswith("its rows take the next scene instead")
    loader.close()
    # The replacement does not depend on hosts or on where the run starts.
    where = {"start_step": 1, "rows": range(4, 8)}
    (part,) = _take(config, 1, **where)
    np.testing.assert_array_equal(part["scene_id"], found[1]["scene_id"][4:])


def test_skipping_ends_where_nothing_can_be_read(plain, tmp_path):
    for file in plain.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for shard, count in zip(sorted(tmp_path.glob("*array_record*")), (10, 10, 3), strict=True):
        writer = ArrayRecordWriter(str(shard), "group_size:1")
        for _ in range(count):
            writer.write(b"nothing")
        writer.close()
    loader = make_loader(_config(tmp_path, on_bad_record="skip"))
    with pytest.raises(InvalidInput, match=r"no scene of source 'toy' in .* can be read"):
        next(loader)


@pytest.mark.parametrize(
    ("fields", "where", "message"),
    [
        ({"global_batch_size": 0}, {}, "global_batch_size is 0; allowed: 1 to"),
        ({"seed": -1}, {}, "seed is -1; allowed: 0 to 4294967295"),
        ({"num_workers": -1}, {}, "num_workers is -1"),
        ({"num_threads": -1}, {}, "num_threads is -1"),
        ({"split": "eval"}, {}, "split is 'eval'; allowed in .*: train, eval_heldout"),
        ({"max_layers": 3}, {}, "max_layers is 3; allowed: at least 4"),
        ({"weights": {"none": 1.0}}, {}, "weights names source 'none'; allowed .*: few, one, two"),
        ({}, {"start_step": -1}, "start_step is -1"),
        ({}, {"rows": (0, 8)}, "row is 8; allowed: 0 to 7"),
    ],
)
def test_bad_values_are_refused(dataset, fields, where, message):
    with pytest.raises(InvalidInput, match=message):
        make_loader(_config(dataset, **fields), **where)
