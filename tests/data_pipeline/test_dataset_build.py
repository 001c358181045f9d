"""Building a dataset: what it holds, and the same bytes on every way there."""

import dataclasses
import json
import multiprocessing
import os
import pickle
import subprocess

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from toy_build import COUNTS, files_of, script_in, shards_of
from toy_source import SQUARE, WIDE, ToySource, stored_indices

from bokeh_jax.errors import InvalidInput
from data_pipeline import dataset, tfds_builder
from data_pipeline.builder import Progress, RefocusScenes, ScenesConfig, build
from data_pipeline.dataset import (
    dataset_info,
    load_provenance,
    load_split,
    open_split,
)
from data_pipeline.hidden import load_hidden
from data_pipeline.records import decode_scene, encode_scene, parse_record, serialize_record
from data_pipeline.source import PhotoScene, kind_of

# The library itself, used by tests as others use it, asks protobuf 6 for what is gone in 7.
pytestmark = pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning")


# What a build writes -----------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [1, 3])
def test_any_number_of_workers_writes_the_same_bytes(built, tmp_path, num_workers):
    summary = build(ToySource(), tmp_path / "out", counts=COUNTS, num_workers=num_workers)
    assert files_of(tmp_path / "out") == files_of(built)
    assert summary.info.fingerprint == dataset_info(built).fingerprint
    assert summary.num_bytes == sum(len(content) for content in files_of(built).values())
    assert (summary.num_dropped, summary.num_damaged, summary.reused) == (1, 1, False)
    assert multiprocessing.active_children() == []
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


@pytest.mark.parametrize("split", COUNTS)
def test_what_is_read_is_what_the_source_makes(built, split):
    reader, source = open_split(built, split), ToySource()
    indices = stored_indices(COUNTS[split])
    assert len(reader) == len(indices)
    for position, index in enumerate(indices):
        scene, found = source.scene(split, index), reader[position]
        group = reader.groups[reader.group_of[position]]
        assert (group.kind, group.source) == (kind_of(scene), "toy")
        assert (group.height_px, group.width_px) == scene.frame
        record = serialize_record(encode_scene(scene, "toy"))
        assert reader.records[position] == record
        expected = decode_scene(parse_record(record), group.kind, scene.frame, group.max_layers)
        assert found["scene_id"] == position
        assert found["scene_id"].dtype == np.int32
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)


def test_groups_are_what_can_stand_in_one_batch(built):
    info = dataset_info(built)
    assert dict(info.counts) == {"train": 38, "eval_seen": 3, "eval_heldout": 4}
    shapes = [(g.kind, g.height_px, g.width_px, g.max_layers) for g in info.splits["train"]]
    photographs = [("photographs", *WIDE, 0), ("photographs", *SQUARE, 0)]
    assert shapes == [("layered", *WIDE, 4), ("layered", *SQUARE, 4), *photographs]
    # Scenes 0, 1 and 2: the layer axis is as long as in training, so nothing compiles anew.
    assert [g.max_layers for g in info.splits["eval_seen"] if g.kind == "layered"] == [4, 4]
    reader = open_split(built, "train")
    positions = [reader.positions(group) for group in range(4)]
    assert sorted(np.concatenate(positions)) == list(range(38))
    assert [len(p) for p in positions] == [g.num_scenes for g in reader.groups]
    for group, where in enumerate(positions):
        assert (np.diff(where) > 0).all()
        batch = load_split(built, "train", group=group)
        np.testing.assert_array_equal(batch["scene_id"], where)
    with pytest.raises(InvalidInput, match="group is 4; allowed in split 'train': 0 to 3"):
        load_split(built, "train", group=4)


def test_more_groups_than_an_index_holds_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_builder, "MAX_GROUPS", 3)
    with pytest.raises(InvalidInput, match="frame are 4; allowed: up to 3"):
        build(ToySource(), tmp_path / "out", counts={"train": 4}, num_workers=0)


def test_positions_lead_to_shards(built):
    reader = open_split(built, "train")
    names = []
    for position in range(len(reader)):
        name, record = reader.shard_of(position)
        shard = ArrayRecordReader(str(built / name))
        assert shard.read([record])[0] == reader.records[position]
        shard.close()
        names.append(name)
    assert list(dict.fromkeys(names)) == [path.name for path in shards_of(built, "train")]
    assert names[0] == "refocus_scenes-train.array_record-00000-of-00003"
    with pytest.raises(IndexError):
        reader.shard_of(38)


def test_the_library_reads_the_folder_by_itself(built):
    """Another TFDS user needs none of our code: schema, order and values are in the folder."""
    reader = tfds.builder_from_directory(str(built)).as_data_source("train")
    indices = stored_indices(COUNTS["train"])
    assert len(reader) == len(indices)
    for position in (0, 1, 6, len(indices) - 1):
        scene, example = ToySource().scene("train", indices[position]), reader[position]
        if isinstance(scene, PhotoScene):
            np.testing.assert_array_equal(example["frames"], scene.image)
            assert example["disparity"].shape == (*scene.frame, 1)
            assert example["kind"] == 1
        else:
            layers = example["frames"].reshape(scene.layers.shape)
            np.testing.assert_array_equal(layers, scene.layers)
            np.testing.assert_array_equal(example["layer_disparity"], scene.layer_disparity)
            np.testing.assert_array_equal(example["layer_gain"], scene.layer_gain)


def test_nothing_of_time_or_machine_is_in_the_folder(built):
    """Other files than these would need the same thought; bytes are compared above."""
    names = {path.name for path in built.iterdir() if "array_record" not in path.name}
    described = {"dataset_info.json", "features.json", "kind.labels.txt", "metadata.json"}
    assert names == described | {"manifest.jsonl"} | {f"groups_{split}.npy" for split in COUNTS}
    text = "".join((built / name).read_text() for name in described)
    assert str(built) not in text
    assert os.uname().nodename not in text


def test_readers_travel_to_other_processes(built):
    reader = open_split(built, "train")
    reader[0]
    again = pickle.loads(pickle.dumps(reader))
    np.testing.assert_array_equal(again[3]["image"], reader[3]["image"])


def test_split_limit(built):
    whole, first = load_split(built, "train", group=1), load_split(built, "train", 2, group=1)
    assert len(first["scene_id"]) == 2
    np.testing.assert_array_equal(first["layers"], whole["layers"][:2])
    assert len(load_split(built, "train", limit=99, group=1)["scene_id"]) == len(whole["scene_id"])
    with pytest.raises(InvalidInput, match="limit is 0; allowed: at least 1"):
        load_split(built, "train", limit=0)


def test_layers_are_filled_up_as_asked(built):
    assert open_split(built, "train", max_layers=6)[0]["layers"].shape == (6, *WIDE, 4)
    assert open_split(built, "train", max_layers=6)[1]["image"].shape == (*SQUARE, 3)
    with pytest.raises(InvalidInput, match="max_layers is 3; allowed: at least 4, as scenes"):
        open_split(built, "train", max_layers=3)


def test_evaluations_find_what_is_hidden(built):
    hidden = load_hidden(built, "eval_heldout")
    np.testing.assert_array_equal(hidden["focus_distance_m"], [np.nan, 2.5, np.nan, 2.5])
    np.testing.assert_array_equal(hidden["subject_xy"][1], [0.25, 0.75])
    assert hidden["camera"].shape == (4, 4)
    assert load_provenance(built, "eval_heldout")[2] == {"index": 2}
    # Training has no way to it.
    scene = open_split(built, "eval_heldout")[1]
    assert set(scene) == {"image", "disparity", "scene_id"}


def test_metadata_and_manifest_say_what_was_left_out(built):
    metadata = dataset.read_metadata(built)
    assert metadata["recipe"] == ToySource().recipe()
    assert metadata["weights"] == {}
    train = metadata["splits"]["train"]
    found = [train[f"num_{what}"] for what in ("candidates", "scenes", "dropped", "damaged")]
    assert found == [40, 38, 1, 1]
    lines = [json.loads(line) for line in (built / "manifest.jsonl").read_text().splitlines()]
    dropped = {"what": "train/5.jpg", "reason": "not in focus everywhere", "damaged": False}
    damaged = {"what": "train/9.jpg", "reason": "cut short", "damaged": True}
    where = {"split": "train"}
    assert lines == [where | {"index": 5} | dropped, where | {"index": 9} | damaged]


def test_fingerprint_is_of_recipe_and_scenes_not_of_files(built, tmp_path):
    metadata = dataset.read_metadata(built)
    before = dataset.fingerprint_of(metadata)
    assert dataset_info(built).fingerprint == before
    fine = build(ToySource(), tmp_path / "fine", counts=COUNTS, num_workers=0, scenes_per_shard=1)
    assert fine.info.fingerprint == before
    assert len(shards_of(tmp_path / "fine", "train")) == 40
    metadata["splits"]["train"]["content_sha256"] = "0"
    other_content = dataset.fingerprint_of(metadata)
    metadata["recipe"]["seed"] = 2
    assert len({before, other_content, dataset.fingerprint_of(metadata)}) == 3


def test_shards_without_scenes_are_read_over(tmp_path):
    build(ToySource(), tmp_path / "out", counts={"train": 8}, num_workers=0, scenes_per_shard=1)
    reader = open_split(tmp_path / "out", "train")
    assert [reader.shard_of(position)[0][-14:-9] for position in range(7)] == [
        f"{index:05d}" for index in stored_indices(8)
    ]
    expected = ToySource().scene("train", 6).layers
    np.testing.assert_array_equal(reader[5]["layers"][: len(expected)], expected)
    library = tfds.builder_from_directory(str(tmp_path / "out")).as_data_source("train")
    assert library[5]["caption"] == b"noise 6"


def test_content_digest_depends_on_every_scene(tmp_path):
    def digest(seed: int, count: int) -> str:
        out = tmp_path / f"{seed}-{count}"
        build(ToySource(seed), out, counts={"train": count}, num_workers=0)
        return dataset.read_metadata(out)["splits"]["train"]["content_sha256"]

    assert len({digest(1, 2), digest(1, 3), digest(2, 2)}) == 3


def test_photographs_as_jpeg(tmp_path):
    build(ToySource(), tmp_path / "out", counts={"train": 4}, num_workers=0, jpeg_quality=95)
    reader = open_split(tmp_path / "out", "train")
    assert reader.values(1)["frames"].startswith(b"\xff\xd8")
    assert reader.values(1)["defocused"].startswith(b"\xff\xd8")
    assert reader.values(1)["mask"].startswith(b"\x89PNG")
    assert reader.values(0)["frames"].startswith(b"\x89PNG")
    expected = ToySource().scene("train", 1).image
    assert np.abs(reader[1]["image"].astype(int) - expected).mean() < 8
    assert dataset.read_metadata(tmp_path / "out")["jpeg_quality"] == 95
    with pytest.raises(InvalidInput, match="a dataset of another recipe"):
        build(ToySource(), tmp_path / "out", counts={"train": 4}, num_workers=0)


def test_all_of_a_finite_source_is_the_default(tmp_path):
    source = ToySource(endless=False)
    assert dict(build(source, tmp_path / "a", num_workers=0).info.counts) == {
        "train": 18,
        "eval_heldout": 4,
    }
    with pytest.raises(InvalidInput, match=r"counts\['train'\] is 21; allowed: 0 to 20"):
        build(source, tmp_path / "b", counts={"train": 21})


def test_the_library_alone_builds_and_continues(tmp_path):
    names = {config.name for config in RefocusScenes.BUILDER_CONFIGS}
    assert {"layered_48px", "layered_256px"} <= names

    def prepare(source: ToySource) -> None:
        config = ScenesConfig(name="toy", source=source, counts=COUNTS)
        config.options = dataclasses.replace(config.options, num_workers=0)
        made = RefocusScenes(config=config, data_dir=str(tmp_path))
        made.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False),
            download_dir=str(tmp_path / "downloads"),
        )

    with pytest.raises(InvalidInput, match="scene 20 is broken"):
        prepare(ToySource(breaks_at=20))
    (shard,) = (tmp_path / "refocus_scenes/toy/2.0.0.building/dataset").iterdir()
    made_at = shard.stat().st_mtime_ns
    prepare(ToySource())
    assert [path.name for path in (tmp_path / "refocus_scenes/toy").iterdir()] == ["2.0.0"]
    folder = tmp_path / "refocus_scenes/toy/2.0.0"
    assert (folder / shard.name).stat().st_mtime_ns == made_at
    assert dict(dataset_info(folder).counts)["train"] == 38
    assert len(RefocusScenes(config="layered_48px", data_dir=str(tmp_path)).info.features) == 13
    with pytest.raises(InvalidInput, match="file_format is tfrecord; allowed: array_record"):
        RefocusScenes(config="layered_48px", data_dir=str(tmp_path), file_format="tfrecord")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_progress_counts_every_candidate(tmp_path, num_workers):
    seen: list[Progress] = []
    counts = {"train": 18, "eval_heldout": 2}
    out = tmp_path / "out"
    build(ToySource(), out, counts=counts, num_workers=num_workers, on_progress=seen.append)
    assert [progress.done for progress in seen] == list(range(21))
    assert seen[-1] == Progress(done=20, total=20, dropped=1, damaged=1)


def test_build_prints_nothing(tmp_path, capfd):
    build(ToySource(), tmp_path / "a", counts={"train": 1}, num_workers=0)
    assert capfd.readouterr() == ("", "")


# Existing folders --------------------------------------------------------------------------------


def test_same_recipe_is_kept(copied):
    before = {p: p.stat().st_mtime_ns for p in copied.iterdir()}
    summary = build(ToySource(), copied, counts=COUNTS, num_workers=0, overwrite=True)
    assert summary.reused
    assert {p: p.stat().st_mtime_ns for p in copied.iterdir()} == before
    assert (summary.num_dropped, summary.num_damaged) == (1, 1)


def test_other_recipe_needs_overwrite(copied):
    before = files_of(copied)
    for changed, counts in ((ToySource(9), COUNTS), (ToySource(), {"train": 2})):
        with pytest.raises(InvalidInput, match="a dataset of another recipe; allowed: a new fold"):
            build(changed, copied, counts=counts, num_workers=0)
    assert files_of(copied) == before
    summary = build(ToySource(9), copied, counts={"train": 2}, num_workers=0, overwrite=True)
    assert not summary.reused
    assert list(dataset_info(copied).counts) == ["train"]
    assert [p.name for p in copied.parent.iterdir()] == [copied.name]
    expected = ToySource(9).scene("train", 0).layers
    np.testing.assert_array_equal(load_split(copied, "train", 1)["layers"][0], expected)


def test_folders_that_are_no_dataset_are_never_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("more work")
    for name in ("mine", "file"):
        with pytest.raises(InvalidInput, match="which is no dataset; allowed: a new folder"):
            build(ToySource(), tmp_path / name, counts={"train": 1}, num_workers=0, overwrite=True)
    (tmp_path / "out.building" / "dataset").mkdir(parents=True)
    (tmp_path / "out.building" / "dataset" / "thesis.txt").write_text("as well")
    with pytest.raises(InvalidInput, match="holds no unfinished build; allowed: another out_dir"):
        build(ToySource(), tmp_path / "out", counts={"train": 1}, num_workers=0, overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    assert (tmp_path / "file").read_text() == "more work"
    assert (tmp_path / "out.building" / "dataset" / "thesis.txt").read_text() == "as well"


def test_empty_folder_is_filled(tmp_path):
    (tmp_path / "empty").mkdir()
    build(ToySource(), tmp_path / "empty", counts={"train": 1}, num_workers=0)
    assert dict(dataset_info(tmp_path / "empty").counts) == {"train": 1}


def test_damaged_dataset_is_rebuilt_only_with_overwrite(built, copied):
    shard = shards_of(copied, "train")[1]
    os.truncate(shard, shard.stat().st_size // 2)
    with pytest.raises(InvalidInput, match="of 16 scenes"):
        build(ToySource(), copied, counts=COUNTS, num_workers=0)
    build(ToySource(), copied, counts=COUNTS, num_workers=0, overwrite=True)
    assert files_of(copied) == files_of(built)


# Without TensorFlow ------------------------------------------------------------------------------


def test_building_and_loading_need_no_tensorflow_nor_torch(tmp_path):
    """With both hidden as if not installed, in the workers as well; and nothing is said."""
    script = """
        import importlib.machinery, sys
        from pathlib import Path
        sys.path.insert(0, {tests!r})

        HIDDEN = ("tensorflow", "torch", "apache_beam", "jax")
        find = importlib.machinery.PathFinder.find_spec
        importlib.machinery.PathFinder.find_spec = staticmethod(
            lambda name, path=None, target=None:
                None if name.split(".")[0] in HIDDEN else find(name, path, target)
        )

        def main():
            from data_pipeline.builder import build
            from data_pipeline.dataset import load_split
            from toy_source import ToySource

            build(ToySource(), Path("out"), counts=dict(train=4), num_workers=1)
            assert len(load_split(Path("out"), "train", group=1)["scene_id"]) == 1
            loaded = set(name.split(".")[0] for name in sys.modules)
            assert not loaded & set(HIDDEN), loaded & set(HIDDEN)
            print("done")

        if __name__ == "__main__":
            main()
    """
    finished = subprocess.run(**script_in(tmp_path, script))
    assert (finished.stdout, finished.stderr) == ("done\n", "")
