"""Folders that are no dataset, or a damaged one: each is refused with one line that names it."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from toy_source import ToySource

from bokeh_jax.errors import InvalidInput
from data_pipeline.builder import build
from data_pipeline.dataset import dataset_info, load_split, open_split
from data_pipeline.records import encode_png, parse_record, serialize_record


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("broken") / "scenes"
    build(
        ToySource(),
        path,
        counts={"train": 20, "eval_seen": 3, "eval_heldout": 4},
        num_workers=0,
        scenes_per_shard=10,
    )
    return path


@pytest.fixture
def copied(built, tmp_path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "scenes"))


def shard_of(path: Path, split: str, number: int = 0) -> Path:
    return sorted(path.glob(f"*-{split}.array_record-*"))[number]


def test_no_dataset_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="which is not there; allowed: a folder"):
        dataset_info(tmp_path / "none")
    with pytest.raises(InvalidInput, match=r"has no readable metadata.json; allowed: a whole"):
        dataset_info(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "3"])
def test_damaged_metadata_is_refused(copied, content):
    (copied / "metadata.json").write_text(content)
    with pytest.raises(InvalidInput, match=r"has no readable metadata.json"):
        dataset_info(copied)


def _set(metadata: dict, *path, value) -> None:
    for key in path[:-1]:
        metadata = metadata[key]
    metadata[path[-1]] = value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("splits",), 3),
        (("splits", "train", "groups"), []),
        (("splits", "train", "groups", 0, "num_scenes"), 99),
        (("splits", "train", "groups", 0, "kind"), "paintings"),
        (("splits", "train", "groups", 0, "size_px"), 3),
        (("weights",), {"toy": "heavy"}),
    ],
)
def test_metadata_that_contradicts_itself_is_refused(copied, path, value):
    metadata = json.loads((copied / "metadata.json").read_text())
    _set(metadata, *path, value=value)
    (copied / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(InvalidInput, match=r"has a damaged metadata.json \(.+\); allowed: a whole"):
        dataset_info(copied)


@pytest.mark.parametrize("version", [1, 3])
def test_other_format_version_is_refused(copied, version):
    metadata = json.loads((copied / "metadata.json").read_text()) | {"format_version": version}
    (copied / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(InvalidInput, match=f"has format version {version}; allowed: 2"):
        dataset_info(copied)


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_damaged_description_is_refused(copied, name):
    (copied / name).write_text("{")
    with pytest.raises(InvalidInput, match="cannot be read"):
        dataset_info(copied)


def test_disagreeing_description_is_refused(copied):
    content = json.loads((copied / "dataset_info.json").read_text())
    content["splits"] = [s for s in content["splits"] if s["name"] != "eval_seen"]
    (copied / "dataset_info.json").write_text(json.dumps(content))
    with pytest.raises(InvalidInput, match="disagrees on split 'eval_seen'"):
        dataset_info(copied)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.999])
def test_truncated_shard_is_named(copied, kept):
    shard = shard_of(copied, "train", 1)
    os.truncate(shard, int(shard.stat().st_size * kept))
    with pytest.raises(InvalidInput, match=rf"shard .*{shard.name} has 0 of 10 scenes"):
        dataset_info(copied)


def test_missing_shard_is_named(copied):
    shard_of(copied, "eval_seen").unlink()
    with pytest.raises(InvalidInput, match="has 0 of 3 scenes"):
        load_split(copied, "eval_seen")


def test_missing_and_damaged_index_is_named(copied):
    index = copied / "groups_train.npy"
    whole = np.load(index)
    for wrong in (whole[:-1], whole[::-1] * 0, whole.astype(np.int64), whole + np.uint16(9)):
        np.save(index, wrong)
        with pytest.raises(InvalidInput, match=r"index .*groups_train.npy disagrees with metadata"):
            dataset_info(copied)
    index.write_bytes(b"\x93NUMPY")
    with pytest.raises(InvalidInput, match=r"index .*groups_train.npy cannot be read"):
        dataset_info(copied)
    index.unlink()
    with pytest.raises(InvalidInput, match=r"index .*groups_train.npy cannot be read \(.*No such"):
        dataset_info(copied)


def test_damaged_record_is_named(copied):
    """Bytes of one frame are lost: its shard and its number in it are what the user needs."""
    shard = shard_of(copied, "train", 1)
    content = bytearray(shard.read_bytes())
    start = content.index(b"PNG", len(content) // 8)
    content[start + 200 : start + 260] = bytes(60)
    shard.write_bytes(bytes(content))
    reader = open_split(copied, "train")
    whole, lines = 0, []
    for position in range(len(reader)):
        try:
            reader[position]
            whole += 1
        except InvalidInput as error:
            lines.append((reader.shard_of(position), str(error)))
    assert whole == len(reader) - 1
    ((name, record), line), *_ = lines
    assert name == shard.name
    assert line.startswith(f"record {record} of shard {shard} cannot be read (")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": encode_png(np.zeros((12, 17, 3), np.uint8))}, r"has uint8 \[12, 17, 3\]"),
        ({"disparity": encode_png(np.zeros((2, 2), np.uint16))}, r"disparity has uint16 \[2, 2\]"),
        ({"kind": 0}, "its kind is layered, not photographs"),
        ({"frames": b"no picture"}, "cannot be decoded"),
    ],
)
def test_record_of_another_shape_is_named(copied, changes, message):
    """A shard with a good index whose third record is not what the dataset says it is."""
    shard = shard_of(copied, "train", 1)
    reader = ArrayRecordReader(str(shard))
    records = reader.read_all()
    reader.close()
    position = next(i for i, record in enumerate(records) if parse_record(record)["kind"] == 1)
    records[position] = serialize_record(parse_record(records[position]) | changes)
    writer = ArrayRecordWriter(str(shard), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()
    reader = open_split(copied, "train")
    first = next(i for i in range(len(reader)) if reader.shard_of(i)[0] == shard.name)
    with pytest.raises(
        InvalidInput, match=rf"record {position} of shard .*{shard.name} .*{message}"
    ):
        reader[first + position]


def test_unknown_split_is_refused(built):
    with pytest.raises(InvalidInput, match=r"split is 'test'; allowed in .*: train, eval_seen, ev"):
        load_split(built, "test")
