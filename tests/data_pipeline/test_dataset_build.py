"""Building a dataset, what it holds, and what happens when a build or a dataset is broken."""

import dataclasses
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from bokeh_jax.errors import InvalidInput
from data_pipeline import builder, dataset
from data_pipeline.builder import RefocusScenes, ScenesConfig, build
from data_pipeline.dataset import dataset_info, load_provenance, load_split
from data_pipeline.layered import LayeredSource
from data_pipeline.photo_folder import PhotoFolderSource
from data_pipeline.records import CHUNK_SCENES, iterate_records
from data_pipeline.textures import HELD_OUT_FILES, TRAIN_FILES

SIZE_PX = 16
COUNTS = {"train": 2 * CHUNK_SCENES + 3, "eval_seen": 3, "eval_heldout": 4}


@dataclasses.dataclass(frozen=True)
class BreakingSource(LayeredSource):
    """Breaks at one scene of the training split: raises, or ends its process."""

    breaks_at: int = CHUNK_SCENES + 2
    ends_process: bool = False

    def scene(self, split, index):
        if split == "train" and index == self.breaks_at:
            if self.ends_process:
                os._exit(7)
            raise InvalidInput(f"scene {index} is broken; allowed: whole ones")
        return super().scene(split, index)


@dataclasses.dataclass(frozen=True)
class SlowSource(LayeredSource):
    """Takes long for every chunk but the first."""

    def scene(self, split, index):
        if index >= CHUNK_SCENES:
            time.sleep(20)
        return super().scene(split, index)


@pytest.fixture(scope="module")
def source() -> LayeredSource:
    return LayeredSource(size_px=SIZE_PX, seed=1)


@pytest.fixture(scope="module")
def built(source, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("built") / "scenes"
    build(source, path, counts=COUNTS, num_workers=0)
    return path


@pytest.fixture
def copied(built, tmp_path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "scenes"))


def _files(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def _shard(path: Path, split: str) -> Path:
    (shard,) = path.glob(f"*-{split}.array_record-*")
    return shard


# What a build writes -----------------------------------------------------------------------------


def test_any_number_of_workers_writes_the_same_bytes(source, built, tmp_path):
    summary = build(source, tmp_path / "two", counts=COUNTS, num_workers=2)
    assert _files(tmp_path / "two") == _files(built)
    assert summary.fingerprint == dataset_info(built).fingerprint
    assert summary.num_bytes == sum(len(content) for content in _files(built).values())
    assert not summary.reused


@pytest.mark.parametrize("num_workers", [1, 3])
def test_records_come_in_order_from_any_number_of_workers(source, num_workers):
    def keys(workers: int) -> list:
        records = iterate_records(source, COUNTS, workers)
        return [(r.split, r.index, r.digest) for r in records]

    found = keys(num_workers)
    assert [key[:2] for key in found] == [(s, i) for s, n in COUNTS.items() for i in range(n)]
    assert found == keys(0)


@pytest.mark.parametrize("split", COUNTS)
def test_what_is_loaded_is_what_the_source_makes(source, built, split):
    batch = load_split(built, split)
    assert list(batch["scene_id"]) == list(range(COUNTS[split]))
    assert batch["scene_id"].dtype == np.int32
    for index in range(COUNTS[split]):
        scene = source.scene(split, index)
        count = len(scene["layers"])
        np.testing.assert_array_equal(batch["layers"][index, :count], scene["layers"])
        np.testing.assert_array_equal(
            batch["layer_disparity"][index, :count], scene["layer_disparity"]
        )
        assert (batch["layers"][index, count:, ..., 3] == 0).all()
        assert batch["layers"].shape[1] == source.max_layers


def test_the_library_reads_the_folder_by_itself(source, built):
    """Another TFDS user needs none of our code: schema, order and values are in the folder."""
    reader = tfds.builder_from_directory(str(built)).as_data_source("train")
    assert len(reader) == COUNTS["train"]
    for index in (0, 5, COUNTS["train"] - 1):
        scene, example = source.scene("train", index), reader[index]
        np.testing.assert_array_equal(
            example["layers"].reshape(-1, SIZE_PX, SIZE_PX, 4), scene["layers"]
        )
        np.testing.assert_array_equal(example["layer_disparity"], scene["layer_disparity"])


def test_features_say_their_units(built):
    features = tfds.builder_from_directory(str(built)).info.features
    assert "straight alpha" in features["layers"].doc.desc
    assert "relative, [0, 1]" in features["layer_disparity"].doc.desc


def test_split_limit(built):
    whole, first = load_split(built, "train"), load_split(built, "train", limit=2)
    assert len(first["scene_id"]) == 2
    np.testing.assert_array_equal(first["layers"], whole["layers"][:2])
    assert len(load_split(built, "eval_seen", limit=99)["scene_id"]) == COUNTS["eval_seen"]
    with pytest.raises(InvalidInput, match="limit is 0; allowed: at least 1"):
        load_split(built, "train", limit=0)


def test_stored_scenes_keep_held_out_photographs_apart(built):
    used = {
        split: {name for scene in load_provenance(built, split) for name in scene["textures"]}
        for split in COUNTS
    }
    assert used["train"] | used["eval_seen"] <= set(TRAIN_FILES)
    assert used["eval_heldout"] <= set(HELD_OUT_FILES)


def test_info_tells_what_is_in_the_folder(built, source):
    info = dataset_info(built)
    assert (info.kind, info.size_px, info.disparity_unit) == ("layered", SIZE_PX, "relative")
    assert (dict(info.counts), info.max_layers) == (COUNTS, source.max_layers)


def test_photographs_round_trip(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for index in range(4):
        pixels = rng.integers(0, 256, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{index}.png")
        disparity = 3 * rng.random((SIZE_PX, SIZE_PX), np.float32)
        np.save(tmp_path / "photos" / f"{index}.disparity.npy", disparity)
    source = PhotoFolderSource(
        tmp_path / "photos", size_px=SIZE_PX, heldout_fraction=0.25, disparity_unit="metric"
    )
    summary = build(source, tmp_path / "out", num_workers=0)
    assert dict(summary.counts) == {"train": 3, "eval_heldout": 1}
    info = dataset_info(tmp_path / "out")
    assert (info.kind, info.max_layers, info.disparity_unit) == ("photographs", 0, "metric")
    for split, count in summary.counts.items():
        batch = load_split(tmp_path / "out", split)
        for index in range(count):
            scene = source.scene(split, index)
            np.testing.assert_array_equal(batch["image"][index], scene["image"])
            np.testing.assert_array_equal(batch["disparity"][index], scene["disparity"])
            assert batch["disparity"].dtype == np.float32
    features = tfds.builder_from_directory(str(tmp_path / "out")).info.features
    assert "disparity (1/m)" in features["disparity"].doc.desc
    with pytest.raises(InvalidInput, match=r"counts\['train'\] is 4; allowed: 0 to 3"):
        build(source, tmp_path / "more", counts={"train": 4})


def test_named_configs_build_with_the_library_alone(tmp_path):
    names = {config.name for config in RefocusScenes.BUILDER_CONFIGS}
    assert {"layered_48px", "layered_128px"} <= names
    config = ScenesConfig(name="layered_16px_small", size_px=16, counts={"train": 2})
    made = RefocusScenes(config=config, data_dir=str(tmp_path), file_format="array_record")
    made.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False),
        download_dir=str(tmp_path / "downloads"),
    )
    folder = tmp_path / "refocus_scenes" / "layered_16px_small" / "1.0.0"
    expected = LayeredSource(size_px=16).scene("train", 1)["layers"]
    found = load_split(folder, "train")["layers"][1, : len(expected)]
    np.testing.assert_array_equal(found, expected)


def test_progress_counts_every_scene(source, tmp_path):
    seen = []
    counts = {"train": 3, "eval_heldout": 2}
    build(
        source,
        tmp_path / "a",
        counts=counts,
        num_workers=0,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


def test_build_prints_nothing(source, tmp_path, capfd):
    build(source, tmp_path / "a", counts={"train": 1}, num_workers=0)
    assert capfd.readouterr() == ("", "")


def test_fingerprint_follows_recipe_and_content(built):
    metadata = dataset.read_metadata(built)
    before = dataset.fingerprint_of(metadata)
    assert dataset_info(built).fingerprint == before
    metadata["splits"]["train"]["content_sha256"] = "0"
    other_content = dataset.fingerprint_of(metadata)
    metadata["recipe"]["seed"] = 2
    assert len({before, other_content, dataset.fingerprint_of(metadata)}) == 3


def test_content_digest_depends_on_every_scene(source, tmp_path):
    def digest(seed: int, count: int) -> str:
        out = tmp_path / f"{seed}-{count}"
        seeded = dataclasses.replace(source, seed=seed)
        build(seeded, out, counts={"train": count}, num_workers=0)
        return dataset.read_metadata(out)["splits"]["train"]["content_sha256"]

    assert len({digest(1, 2), digest(1, 3), digest(2, 2)}) == 3


# Existing folders --------------------------------------------------------------------------------


def test_same_recipe_is_kept(source, copied):
    before = {p: p.stat().st_mtime_ns for p in copied.iterdir()}
    summary = build(source, copied, counts=COUNTS, num_workers=0, overwrite=True)
    assert summary.reused
    assert {p: p.stat().st_mtime_ns for p in copied.iterdir()} == before
    assert summary.fingerprint == dataset_info(copied).fingerprint


def test_other_recipe_needs_overwrite(source, copied):
    other = dataclasses.replace(source, seed=9)
    before = _files(copied)
    for changed, counts in ((other, COUNTS), (source, {"train": 2})):
        with pytest.raises(InvalidInput, match="a dataset of another recipe; allowed: a new fold"):
            build(changed, copied, counts=counts, num_workers=0)
    assert _files(copied) == before
    summary = build(other, copied, counts={"train": 2}, num_workers=0, overwrite=True)
    assert not summary.reused
    assert list(dataset_info(copied).counts) == ["train"]
    assert [p.name for p in copied.parent.iterdir()] == [copied.name]
    np.testing.assert_array_equal(
        load_split(copied, "train", 1)["layers"][0, 0], other.scene("train", 0)["layers"][0]
    )


def test_folders_that_are_no_dataset_are_never_replaced(source, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("more work")
    for name in ("mine", "file"):
        with pytest.raises(InvalidInput, match="which is no dataset; allowed: a new folder"):
            build(source, tmp_path / name, counts={"train": 1}, num_workers=0, overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    assert (tmp_path / "file").read_text() == "more work"


def test_empty_folder_is_filled(source, tmp_path):
    (tmp_path / "empty").mkdir()
    build(source, tmp_path / "empty", counts={"train": 1}, num_workers=0)
    assert dict(dataset_info(tmp_path / "empty").counts) == {"train": 1}


def test_damaged_dataset_is_rebuilt_only_with_overwrite(source, copied):
    shard = _shard(copied, "train")
    os.truncate(shard, shard.stat().st_size // 2)
    with pytest.raises(InvalidInput, match="of 35 scenes"):
        build(source, copied, counts=COUNTS, num_workers=0)
    build(source, copied, counts=COUNTS, num_workers=0, overwrite=True)
    assert len(load_split(copied, "train")["scene_id"]) == COUNTS["train"]


# Builds that fail --------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 2])
def test_failed_build_leaves_nothing_and_says_why(tmp_path, num_workers):
    source = BreakingSource(size_px=SIZE_PX)
    with pytest.raises(InvalidInput, match="scene 18 is broken; allowed: whole ones"):
        build(source, tmp_path / "out", counts=COUNTS, num_workers=num_workers)
    assert list(tmp_path.iterdir()) == []


def test_worker_that_ends_is_reported(tmp_path):
    source = BreakingSource(size_px=SIZE_PX, ends_process=True)
    with pytest.raises(RuntimeError, match="ended before its work did"):
        build(source, tmp_path / "out", counts=COUNTS, num_workers=2)
    assert list(tmp_path.iterdir()) == []


def test_abandoned_workers_are_ended():
    records = iterate_records(SlowSource(size_px=SIZE_PX), {"train": 3 * CHUNK_SCENES}, 2)
    assert next(records).index == 0
    start = time.monotonic()
    records.close()
    assert time.monotonic() - start < 10
    assert multiprocessing.active_children() == []


def test_failed_overwrite_keeps_the_old_dataset(copied):
    before = _files(copied)
    with pytest.raises(InvalidInput, match="is broken"):
        build(BreakingSource(size_px=SIZE_PX), copied, counts=COUNTS, num_workers=0, overwrite=True)
    assert _files(copied) == before
    assert [p.name for p in copied.parent.iterdir()] == [copied.name]


def test_killed_build_leaves_no_dataset_and_the_next_one_cleans_up(source, tmp_path):
    """SIGKILL while a worker is making scenes: no clean-up code of the build can run."""
    script = """
        import os, signal
        from pathlib import Path
        from data_pipeline.builder import build
        from data_pipeline.layered import LayeredSource

        def kill(done, total):
            if done == 20:
                print(os.listdir("."), flush=True)
                os.kill(os.getpid(), signal.SIGKILL)

        if __name__ == "__main__":
            build(LayeredSource(size_px=16), Path("out"), counts={"train": 400}, num_workers=1,
                  progress=kill)
    """
    # A file, because spawned processes import the main module again.
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    (tmp_path / "data").mkdir()
    killed = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")],
        cwd=tmp_path / "data",
        env=os.environ | {"PYTHONPATH": str(Path(builder.__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    # The run above has waited for the pipes' last writer: the worker has ended too, and quietly.
    assert killed.stderr == ""
    left = [path.name for path in (tmp_path / "data").iterdir()]
    assert len(left) == 1
    assert left[0].startswith(".out.building-")
    # A build that is still running keeps its folder: this process is one.
    running = tmp_path / "data" / left[0].replace(left[0].rpartition("-")[2], str(os.getppid()))
    running.mkdir()
    build(source, tmp_path / "data" / "out", counts={"train": 1}, num_workers=0)
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"out", running.name}


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (None, "counts is None; allowed for endless layered scenes: numbers"),
        ({"train": -1}, r"counts\['train'\] is -1; allowed: 0 to"),
        ({"train": 2**31}, r"counts\['train'\] is 2147483648"),
        ({"train": 0}, "counts has no scenes; allowed: at least one"),
        ({"test": 3}, "split is 'test'; allowed: train, eval_seen, eval_heldout"),
    ],
)
def test_bad_counts_are_refused(source, tmp_path, counts, message):
    with pytest.raises(InvalidInput, match=message):
        build(source, tmp_path / "out", counts=counts)
    assert list(tmp_path.iterdir()) == []


def test_bad_worker_number_is_refused(source, tmp_path):
    with pytest.raises(InvalidInput, match="num_workers is -1; allowed: 0 to 1024"):
        build(source, tmp_path / "out", counts={"train": 1}, num_workers=-1)


# Without TensorFlow ------------------------------------------------------------------------------


def test_building_and_loading_need_no_tensorflow_nor_torch(tmp_path):
    """With both hidden as if not installed, in the workers as well; and nothing is said."""
    script = """
        import importlib.machinery, sys
        from pathlib import Path

        HIDDEN = ("tensorflow", "torch")
        find = importlib.machinery.PathFinder.find_spec
        importlib.machinery.PathFinder.find_spec = staticmethod(
            lambda name, path=None, target=None:
                None if name.split(".")[0] in HIDDEN else find(name, path, target)
        )

        def main():
            from data_pipeline.builder import build
            from data_pipeline.layered import LayeredSource
            from data_pipeline.loader import LoaderConfig, load_split, make_loader

            build(LayeredSource(size_px=16), Path("out"), counts={"train": 4}, num_workers=1)
            assert len(load_split(Path("out"), "train")["scene_id"]) == 4
            batches = make_loader(LoaderConfig(Path("out"), global_batch_size=2))
            assert next(batches)["layers"].shape == (2, 5, 16, 16, 4)
            batches.close()
            loaded = {name.split(".")[0] for name in sys.modules}
            assert not loaded & set(HIDDEN), loaded & set(HIDDEN)
            print("done")

        if __name__ == "__main__":
            main()
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    finished = subprocess.run(
        [sys.executable, "-W", "error", str(tmp_path / "script.py")],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(builder.__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert (finished.stdout, finished.stderr) == ("done\n", "")
