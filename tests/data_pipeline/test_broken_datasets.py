"""Folders that are no dataset, or a damaged one: each is refused with one line that names it."""

import json
import os
import shutil
from pathlib import Path

import pytest

from bokeh_jax.errors import InvalidInput
from data_pipeline.builder import build
from data_pipeline.dataset import dataset_info, load_split
from data_pipeline.layered import LayeredSource


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("broken") / "scenes"
    counts = {"train": 20, "eval_seen": 3, "eval_heldout": 4}
    build(LayeredSource(size_px=16), path, counts=counts, num_workers=0)
    return path


@pytest.fixture
def copied(built, tmp_path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "scenes"))


def _shard(path: Path, split: str) -> Path:
    (shard,) = path.glob(f"*-{split}.array_record-*")
    return shard


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


def test_other_format_version_is_refused(copied):
    metadata = json.loads((copied / "metadata.json").read_text()) | {"format_version": 2}
    (copied / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(InvalidInput, match="has format version 2; allowed: 1"):
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
def test_truncated_shard_is_refused(copied, kept):
    shard = _shard(copied, "eval_heldout")
    os.truncate(shard, int(shard.stat().st_size * kept))
    with pytest.raises(InvalidInput, match=rf"shard .*{shard.name} has 0 of 4 scenes"):
        dataset_info(copied)


def test_missing_shard_is_refused(copied):
    _shard(copied, "eval_seen").unlink()
    with pytest.raises(InvalidInput, match="has 0 of 3 scenes"):
        load_split(copied, "eval_seen")


def test_damaged_record_is_named(copied):
    shard = _shard(copied, "train")
    content = bytearray(shard.read_bytes())
    start = content.index(b"PNG", len(content) // 4)
    content[start + 200 : start + 260] = bytes(60)
    shard.write_bytes(bytes(content))
    with pytest.raises(InvalidInput, match=r"scene \d+ of split 'train' in .* cannot be read"):
        load_split(copied, "train")


def test_unknown_split_is_refused(built):
    with pytest.raises(InvalidInput, match=r"split is 'test'; allowed in .*: train, eval_seen, ev"):
        load_split(built, "test")
