"""Apache Beam and processes beside this one make the same shards."""

import os
import sys
from pathlib import Path

import pytest
from toy_build import files_of
from toy_source import ToySource

from bokeh_jax.errors import InvalidInput
from data_pipeline import builder, locks, shard_build, shards
from data_pipeline.builder import Progress, build
from data_pipeline.shards import ShardJob, ShardKey, finished_shard, make_shard

COUNTS = {"train": 40, "eval_heldout": 4}
# Beam's own modules and what they import.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("built") / "scenes"
    build(ToySource(), path, counts=COUNTS, num_workers=0)
    return path


def test_beam_writes_the_same_bytes_and_goes_on_where_a_build_was(built, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InvalidInput, match="scene 20 is broken"):
        build(ToySource(breaks_at=20), out, counts=COUNTS, num_workers=0)
    (first,) = (tmp_path / "out.building" / "dataset").iterdir()
    made_at, seen = first.stat().st_mtime_ns, []
    build(ToySource(), out, counts=COUNTS, runner="DirectRunner", on_progress=seen.append)
    assert files_of(out) == files_of(built)
    assert (out / first.name).stat().st_mtime_ns == made_at
    assert seen == [Progress(16, 44, 1, 1), Progress(44, 44, 1, 1)]


@pytest.mark.parametrize("before", [None, "tpu"])
def test_processes_beside_this_one_leave_accelerators_alone(tmp_path, monkeypatch, before):
    if before is None:
        monkeypatch.delenv("JAX_PLATFORMS")
    else:
        monkeypatch.setenv("JAX_PLATFORMS", before)
    with pytest.raises(InvalidInput, match="platform is cpu"):
        build(ToySource(tells_platform=True), tmp_path / "out", counts=COUNTS, num_workers=1)
    assert os.environ.get("JAX_PLATFORMS") == before


@pytest.fixture
def seen_by_processes(monkeypatch):
    """Beam's processes find the test's source, and the project."""
    folders = [str(Path(__file__).parent), str(Path(builder.__file__).parents[1])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))


def test_beam_processes_write_the_same_bytes(built, tmp_path, seen_by_processes):
    """The job travels to other processes, as it does to other machines."""
    options = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    build(
        ToySource(),
        tmp_path / "out",
        counts=COUNTS,
        runner="DirectRunner",
        beam_options=options,
    )
    assert files_of(tmp_path / "out") == files_of(built)


def test_what_stops_a_beam_worker_is_said_in_one_line(tmp_path):
    with pytest.raises(InvalidInput) as caught:
        build(ToySource(breaks_at=20), tmp_path / "out", counts=COUNTS, runner="DirectRunner")
    assert str(caught.value) == "scene 20 is broken; allowed: whole ones"


def test_unknown_runner_is_refused(tmp_path):
    with pytest.raises(
        InvalidInput, match=r"runner is 'Shoes' \(.*\); allowed: a runner that Beam"
    ):
        build(ToySource(), tmp_path / "out", counts=COUNTS, runner="Shoes")


def test_options_reach_beam(tmp_path, capfd):
    options = {"runner": "DirectRunner", "beam_options": ("--direct_num_workers=shoes",)}
    with pytest.raises(
        InvalidInput, match=r"beam_options are wrong: .*direct_num_workers.*'shoes'"
    ):
        build(ToySource(), tmp_path / "out", counts=COUNTS, **options)
    assert capfd.readouterr().err == ""


def test_without_beam_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(InvalidInput, match=r"Apache Beam is not installed; .*bokeh-jax\[beam\]"):
        build(ToySource(), tmp_path / "out", counts=COUNTS, runner="DirectRunner")


def test_files_are_copied_to_where_nothing_can_be_renamed(built, tmp_path, monkeypatch):
    """The way to an object store, with a folder in its place."""
    for module in (builder, locks, shard_build, shards):
        monkeypatch.setattr(module, "is_local", lambda path: False)
    summary = build(ToySource(), tmp_path / "out", counts=COUNTS, num_workers=0)
    assert files_of(tmp_path / "out") == files_of(built)
    assert dict(summary.info.counts) == {"train": 38, "eval_heldout": 4}
    assert build(ToySource(), tmp_path / "out", counts=COUNTS, num_workers=0).reused


def _job(work_dir: Path, **fields) -> ShardJob:
    return ShardJob(ToySource(**fields), {"train": 10}, {"train": 4}, None, str(work_dir))


def test_a_shard_is_a_function_of_job_and_key(tmp_path):
    """Last first, and twice; the second time nothing is made."""
    job, other = _job(tmp_path / "a"), _job(tmp_path / "b")
    for key in reversed(job.all_keys()):
        made = make_shard(job, key)
        assert finished_shard(job, key) == made
        assert make_shard(_job(tmp_path / "a", breaks_at=key.number * 4), key) == made
    for key in other.all_keys():
        make_shard(other, key)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    assert [len(job.indices(key)) for key in job.all_keys()] == [4, 4, 2]
    assert finished_shard(_job(tmp_path / "c"), ShardKey("train", 0)) is None


def test_what_interrupts_a_shard_leaves_nothing_of_it(tmp_path):
    with pytest.raises(InvalidInput, match="scene 6 is broken"):
        make_shard(_job(tmp_path, breaks_at=6), ShardKey("train", 1))
    assert files_of(tmp_path) == {}
