"""Builds that fail, are killed or meet each other, and what the next one makes of it."""

import dataclasses
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import time

import numpy as np
import pytest
from toy_build import COUNTS, files_of, script_in, shards_of
from toy_source import ToySource

from bokeh_jax.errors import InvalidInput
from data_pipeline.builder import Progress, build
from data_pipeline.source import PhotoScene

# The library itself, used by tests as others use it, asks protobuf 6 for what is gone in 7.
pytestmark = pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning")


# Builds that fail, and go on ---------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 2])
def test_failed_build_says_why_and_goes_on_where_it_was(built, tmp_path, num_workers):
    out, work = tmp_path / "out", tmp_path / "out.building"
    # In the last shard of three: one at least is finished before it is begun.
    with pytest.raises(InvalidInput, match="scene 39 is broken; allowed: whole ones"):
        build(ToySource(breaks_at=39), out, counts=COUNTS, num_workers=num_workers)
    assert list(tmp_path.iterdir()) == [work]
    assert multiprocessing.active_children() == []
    first, *_ = (work / "sidecars").iterdir()
    shard = first.name.removesuffix(".json")
    made_at = (work / "dataset" / shard).stat().st_mtime_ns
    seen = []
    summary = build(
        ToySource(), out, counts=COUNTS, num_workers=num_workers, on_progress=seen.append
    )
    assert (summary.num_dropped, summary.num_damaged) == (1, 1)
    assert seen[0].done >= 16
    assert seen[-1] == Progress(47, 47, 1, 1)
    assert (out / shard).stat().st_mtime_ns == made_at
    assert files_of(out) == files_of(built)
    assert list(tmp_path.iterdir()) == [out]


def test_worker_that_ends_is_reported(built, tmp_path):
    source = ToySource(breaks_at=20, ends_process=True)
    with pytest.raises(RuntimeError, match=r"ended before its work did \(exit code 7\)"):
        build(source, tmp_path / "out", counts=COUNTS, num_workers=2)
    assert multiprocessing.active_children() == []
    build(ToySource(), tmp_path / "out", counts=COUNTS, num_workers=2)
    assert files_of(tmp_path / "out") == files_of(built)


def test_failed_build_without_a_shard_leaves_nothing(tmp_path):
    with pytest.raises(InvalidInput, match="scene 3 is broken"):
        build(ToySource(breaks_at=3), tmp_path / "out", counts=COUNTS, num_workers=0)
    assert list(tmp_path.iterdir()) == []


def test_failed_overwrite_keeps_the_old_dataset(copied):
    before = files_of(copied)
    with pytest.raises(InvalidInput, match="is broken"):
        build(ToySource(9, breaks_at=1), copied, counts=COUNTS, num_workers=0, overwrite=True)
    assert files_of(copied) == before


def test_what_another_recipe_has_left_needs_overwrite(built, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InvalidInput, match="is broken"):
        build(ToySource(9, breaks_at=20), out, counts=COUNTS, num_workers=0)
    before = files_of(tmp_path)
    same = ToySource(9)
    for source, options in (
        (ToySource(), {}),
        (same, {"scenes_per_shard": 3}),
        (same, {"jpeg_quality": 90}),
    ):
        with pytest.raises(InvalidInput, match="an unfinished build of another recipe; allowed: "):
            build(source, out, counts=COUNTS, num_workers=0, **options)
    assert files_of(tmp_path) == before
    build(ToySource(), out, counts=COUNTS, num_workers=0, overwrite=True)
    assert files_of(out) == files_of(built)


def test_shards_that_were_cut_short_are_made_again(built, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InvalidInput, match="is broken"):
        build(ToySource(breaks_at=39), out, counts=COUNTS, num_workers=0)
    shard = shards_of(tmp_path / "out.building" / "dataset", "train")[1]
    os.truncate(shard, shard.stat().st_size // 2)
    sidecar = next((tmp_path / "out.building" / "sidecars").glob("*train*00000-of*"))
    sidecar.write_text("{")
    # What a killed process may leave behind.
    (tmp_path / "out.building" / "tmp" / "half.json.1234").write_text("{")
    build(ToySource(), out, counts=COUNTS, num_workers=0)
    assert files_of(out) == files_of(built)


def test_killed_after_the_last_rename(built, copied):
    work = copied.with_name("scenes.building")
    with pytest.raises(InvalidInput, match="is broken"):
        build(ToySource(breaks_at=20), copied.with_name("x"), counts=COUNTS, num_workers=0)
    copied.with_name("x.building").rename(work)
    assert build(ToySource(), copied, counts=COUNTS, num_workers=0).reused
    assert not work.exists()
    assert files_of(copied) == files_of(built)


def test_too_many_damaged_candidates_fail_the_build(tmp_path):
    out, source = tmp_path / "out", ToySource(num_damaged=3)
    with pytest.raises(InvalidInput) as caught:
        build(source, out, counts={"train": 40}, num_workers=0)
    manifest = tmp_path / "out.building" / "manifest.jsonl"
    assert str(caught.value) == (
        "damaged candidates are 3 of 40, such as train/9.jpg (cut short); "
        f"allowed: max_damaged_share=0.05 of them; all are listed in {manifest}"
    )
    damaged = [json.loads(line)["damaged"] for line in manifest.read_text().splitlines()]
    assert damaged == [False, True, True, True]
    assert not out.exists()
    made_at = [path.stat().st_mtime_ns for path in shards_of(manifest.parent / "dataset", "train")]
    summary = build(source, out, counts={"train": 40}, num_workers=0, max_damaged_share=0.075)
    assert summary.num_damaged == 3
    assert [path.stat().st_mtime_ns for path in shards_of(out, "train")] == made_at


def test_nothing_left_is_no_dataset(tmp_path):
    source = ToySource(num_damaged=99)
    options = {"counts": {"train": 1}, "num_workers": 0, "max_damaged_share": 1.0}
    with pytest.raises(InvalidInput, match="all 1 candidates are skipped; allowed: at least one"):
        build(OnlyLater(source), tmp_path / "out", **options)


@dataclasses.dataclass(frozen=True)
class OnlyLater:
    """The candidates of another source from 9 on."""

    source: ToySource
    name: str = "later"

    def recipe(self):
        return self.source.recipe()

    def num_scenes(self, split):
        return None

    def scene(self, split, index):
        return self.source.scene(split, index + 9)


@dataclasses.dataclass(frozen=True)
class NotFinite(OnlyLater):
    """Every photograph's disparity has a NaN; candidate 6 makes the source itself fail."""

    def scene(self, split, index):
        if index == 6:
            raise KeyError("texture")
        scene = self.source.scene(split, index)
        if isinstance(scene, PhotoScene):
            scene.disparity[0, 0] = np.nan
        return scene


def test_values_that_are_not_finite_never_get_in(tmp_path):
    options = {"num_workers": 0, "max_damaged_share": 0.5}
    source = NotFinite(ToySource())
    build(source, tmp_path / "out", counts={"train": 4}, **options)
    lines = (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] for line in lines] == [1, 3]
    assert json.loads(lines[0])["what"] == "later train 1"
    assert json.loads(lines[0])["reason"] == "its disparity has values that are not finite"
    with pytest.raises(KeyError) as caught:
        build(source, tmp_path / "b", counts={"train": 8}, **options)
    assert caught.value.__notes__ == ["while making candidate 6 of split 'train' of later"]


# Killed, and two at once -------------------------------------------------------------------------

SCRIPT = """
    import sys
    from pathlib import Path
    sys.path.insert(0, {tests!r})

    def main():
        from data_pipeline.builder import build
        from toy_source import ToySource

        build(ToySource(seconds=0.03), Path("out"), counts={counts!r}, num_workers=2)

    if __name__ == "__main__":
        main()
"""


def test_a_killed_build_continues_to_the_same_bytes(built, tmp_path):
    """SIGKILL while workers are making scenes: no clean-up code of the build can run."""
    out, work = tmp_path / "out", tmp_path / "out.building"
    with subprocess.Popen(**script_in(tmp_path, SCRIPT)) as process:
        while process.poll() is None and not list(work.glob("sidecars/*.json")):
            time.sleep(0.01)
        # It is running: a second build of the same folder is refused.
        with pytest.raises(InvalidInput) as caught:
            build(ToySource(), out, counts=COUNTS, num_workers=0)
        process.send_signal(signal.SIGKILL)
        # Waits for the pipe's last writer: the workers have ended too, and quietly.
        assert process.communicate() == ("", "")
    assert process.returncode == -signal.SIGKILL
    assert f"{work} is in use by process {process.pid} on " in str(caught.value)
    finished = {path.name: path.stat().st_mtime_ns for path in shards_of(work / "dataset", "*")}
    assert 1 <= len(finished) < 5
    assert not out.exists()
    again = subprocess.run(**script_in(tmp_path, SCRIPT), check=True)
    assert (again.stdout, again.stderr) == ("", "")
    assert files_of(out) == files_of(built)
    assert not work.exists()
    # The sidecar comes after its shard, so one shard may have been made again.
    kept = [name for name, at in finished.items() if (out / name).stat().st_mtime_ns == at]
    assert len(kept) >= 1


# Refused values, and no room ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"counts": None}, "counts is None; allowed for endless toy scenes: numbers"),
        ({"counts": {"train": -1}}, r"counts\['train'\] is -1; allowed: 0 to"),
        ({"counts": {"train": 2**31}}, r"counts\['train'\] is 2147483648"),
        ({"counts": {"train": 0}}, "counts has no scenes; allowed: at least one"),
        ({"counts": {"test": 3}}, "split is 'test'; allowed: train, eval_seen, eval_heldout"),
        ({"num_workers": -1}, "num_workers is -1; allowed: 0 to 1024"),
        ({"scenes_per_shard": 0}, "scenes_per_shard is 0; allowed: 1 to"),
        ({"jpeg_quality": 101}, "jpeg_quality is 101; allowed: 1 to 100"),
        ({"max_damaged_share": 1.5}, "max_damaged_share is 1.5; allowed: 0 to 1"),
        ({"beam_options": ("--x",)}, "beam_options are --x; allowed only with a runner"),
    ],
)
def test_bad_values_are_refused(tmp_path, options, message):
    with pytest.raises(InvalidInput, match=message):
        build(ToySource(), tmp_path / "out", **({"counts": {"train": 1}} | options))
    assert list(tmp_path.iterdir()) == []


def test_no_room_is_one_line_and_keeps_what_is_finished(built, tmp_path):
    """A limit on the size of files stands for a full disk."""
    out = tmp_path / "out"
    with pytest.raises(InvalidInput, match="is broken"):
        build(ToySource(breaks_at=20), out, counts=COUNTS, num_workers=0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
        with pytest.raises(InvalidInput, match=r"00001-of-00003 cannot be written \(.*File too la"):
            build(ToySource(), out, counts=COUNTS, num_workers=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(shards_of(tmp_path / "out.building" / "dataset", "train")) == 1
    build(ToySource(), out, counts=COUNTS, num_workers=0)
    assert files_of(out) == files_of(built)


def test_folders_that_cannot_be_made_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match=r"file/out.building cannot be written \(Not a direct"):
        build(ToySource(), tmp_path / "file" / "out", counts={"train": 1}, num_workers=0)
