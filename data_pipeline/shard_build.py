"""Making all shards of a dataset, continuing what a killed build has left.

A work folder holds the finished shards, their sidecars and `plan.json`, which says what they are
made from: only a build with the same plan may continue them.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from bokeh_jax.errors import InvalidInput
from data_pipeline.mixture import MixtureSource, checked_counts
from data_pipeline.runners import run_beam, run_local
from data_pipeline.shards import (
    DATASET_FOLDER,
    SIDECAR_FOLDER,
    TEMPORARY_FOLDER,
    ShardJob,
    ShardKey,
    ShardReport,
    SkippedCandidate,
    finished_shard,
    is_local,
    naming_failures,
)
from data_pipeline.source import SceneSource, check_int
from data_pipeline.text_encoder import TextEncoder
from data_pipeline.text_table import write_text

PLAN_FILE = "plan.json"
MANIFEST_FILE = "manifest.jsonl"
REPLACED_FOLDER = "replaced"
# Raise it whenever the same scenes would be written as other bytes.
WRITER_VERSION = 1
# A split has about 32 shards, so that all cores find work and a killed build loses little.
_SHARDS_PER_SPLIT = 32
_SHARD_SCENES = (16, 1024)

Reports = Mapping[str, Sequence[ShardReport]]


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a build is.

    Attributes:
        done: candidates that are made or skipped.
        total: candidates in all.
        dropped: of those done, dropped by a filter.
        damaged: of those done, that could not be made.
        captions_done: different captions that are embedded, once all candidates are done.
        captions_total: different captions in all; 0 until then.
    """

    done: int
    total: int
    dropped: int
    damaged: int
    captions_done: int = 0
    captions_total: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How a dataset is written; but for `jpeg_quality` nothing here changes a scene.

    The embeddings of captions are beside the scenes.

    Attributes:
        jpeg_quality: store photographs as JPEG of this quality, 1 to 100; as PNG when None.
        text_encoder: embeds the captions; None for no embeddings.
        scenes_per_shard: candidates in a shard; by the number of candidates when None.
        max_damaged_share: the build fails when more of the candidates are damaged, 0 to 1.
        num_workers: processes that make scenes, 0 for none beside this one; when None, one a core.
        runner: name of an Apache Beam runner that makes the shards; none when None.
        beam_options: command-line options for it.
        on_progress: called after every candidate; with a Beam runner, only at start and end.
    """

    jpeg_quality: int | None = None
    text_encoder: TextEncoder | None = None
    scenes_per_shard: int | None = None
    max_damaged_share: float = 0.05
    num_workers: int | None = None
    runner: str | None = None
    beam_options: tuple[str, ...] = ()
    on_progress: Callable[[Progress], None] | None = None

    def __post_init__(self):
        if self.jpeg_quality is not None:
            check_int("jpeg_quality", self.jpeg_quality, 1, 100)
        if self.scenes_per_shard is not None:
            check_int("scenes_per_shard", self.scenes_per_shard, 1, 2**20)
        if not 0 <= self.max_damaged_share <= 1:
            raise InvalidInput(f"max_damaged_share is {self.max_damaged_share}; allowed: 0 to 1")
        if self.num_workers is not None:
            check_int("num_workers", self.num_workers, 0, 1024)
        if self.beam_options and self.runner is None:
            raise InvalidInput(
                f"beam_options are {' '.join(self.beam_options)}; allowed only with a runner"
            )


def make_job(
    source: SceneSource,
    counts: Mapping[str, int] | None,
    options: BuildOptions,
    work_dir: epath.Path,
) -> ShardJob:
    """Return the job that makes `counts` candidates of a source, all that it has when None.

    Raises:
        InvalidInput: a bad count, or no candidates at all.
    """
    checked = checked_counts(source, counts)
    if not checked:
        raise InvalidInput("counts has no scenes; allowed: at least one in one split")
    low, high = _SHARD_SCENES
    sizes = {
        split: options.scenes_per_shard or min(max(-(-count // _SHARDS_PER_SPLIT), low), high)
        for split, count in checked.items()
    }
    folder = os.fspath(work_dir)
    # A runner's processes may stand in another folder.
    folder = os.path.abspath(folder) if is_local(folder) else folder
    return ShardJob(
        source, checked, sizes, options.jpeg_quality, folder, _checked_encoder(options.text_encoder)
    )


def _checked_encoder(encoder: TextEncoder | None) -> TextEncoder | None:
    # Scenes may take hours: what cannot be done after them is refused before.
    if encoder is not None:
        encoder.check()
    return encoder


def content_plan(job: ShardJob) -> dict[str, Any]:
    """Return all that decides what a job stores, as JSON values."""
    plan: dict[str, Any] = {
        "recipe": job.source.recipe(),
        "jpeg_quality": job.jpeg_quality,
        "candidates": dict(job.counts),
    }
    if job.text_encoder is not None:
        plan["text"] = job.text_encoder.recipe()
    return json.loads(json.dumps(plan))


def source_weights(source: SceneSource) -> dict[str, float]:
    """Return the weight of every source in a dataset, by its name."""
    return source.weights if isinstance(source, MixtureSource) else {}


def make_shards(job: ShardJob, options: BuildOptions, overwrite: bool) -> Reports:
    """Make the shards that the job's folder does not hold yet; return what is in all of them.

    Args:
        job: what they are made from.
        options: by whom.
        overwrite: remove what is left of a build with another plan.

    Raises:
        InvalidInput: the folder holds something else; more damaged candidates than allowed; as
            `shards.make_shard` and `runners`.
    """
    _check_plan(job, overwrite)
    finished = {key: finished_shard(job, key) for key in job.all_keys()}
    missing = [key for key, report in finished.items() if report is None]
    counter = _Counter(sum(job.counts.values()), options.on_progress)
    counter.add(job, finished)
    if options.runner is None:
        num_workers = options.num_workers
        num_workers = (os.cpu_count() or 1) if num_workers is None else num_workers
        run_local(job, missing, num_workers, counter.on_candidate)
        made = {key: finished_shard(job, key) for key in missing}
    else:
        run_beam(job, missing, options.runner, options.beam_options)
        made = {key: finished_shard(job, key) for key in missing}
        counter.add(job, made)
    reports: dict[str, list[ShardReport]] = {split: [] for split in job.counts}
    for key, report in (finished | made).items():
        if report is None:
            raise InvalidInput(
                f"shard {job.shard_path(key)} is not there after the run; "
                "allowed: a folder that every machine of the runner writes to"
            )
        reports[key.split].append(report)
    _check_damaged(job, reports, options.max_damaged_share)
    if job.text_encoder is not None:
        write_text(job, reports, counter.on_captions)
    return reports


def remove_work(work_dir: epath.Path) -> None:
    """Remove what a finished build needs no more; the lock stays its holder's."""
    for name in (DATASET_FOLDER, SIDECAR_FOLDER, TEMPORARY_FOLDER, REPLACED_FOLDER):
        if (work_dir / name).exists():
            (work_dir / name).rmtree()
    for name in (PLAN_FILE, MANIFEST_FILE):
        (work_dir / name).unlink(missing_ok=True)


def remove_useless_work(work_dir: epath.Path) -> None:
    """Remove what a failed build leaves if it has not finished a single shard."""
    sidecars = work_dir / SIDECAR_FOLDER
    if (work_dir / PLAN_FILE).exists() and not (sidecars.exists() and any(sidecars.iterdir())):
        remove_work(work_dir)


def same_plan(job: ShardJob) -> bool:
    """Whether the job's folder holds shards of this very job."""
    path = epath.Path(job.work_dir) / PLAN_FILE
    return path.exists() and path.read_text() == _plan(job)


def manifest(reports: Reports) -> str:
    """Return a line of JSON for every candidate that is not in the dataset."""
    lines = [
        json.dumps({"split": split} | dataclasses.asdict(candidate))
        for split, of_split in reports.items()
        for report in of_split
        for candidate in report.skipped
    ]
    return "".join(f"{line}\n" for line in lines)


def _plan(job: ShardJob) -> str:
    content = content_plan(job) | {
        "writer_version": WRITER_VERSION,
        "scenes_per_shard": dict(job.scenes_per_shard),
    }
    return json.dumps(content, sort_keys=True)


def _check_plan(job: ShardJob, overwrite: bool) -> None:
    """Make sure that the folder's shards are this job's; write the plan into a new folder."""
    work_dir = epath.Path(job.work_dir)
    path = work_dir / PLAN_FILE
    if not same_plan(job):
        ours = {DATASET_FOLDER, SIDECAR_FOLDER}
        if path.exists() and not overwrite:
            raise InvalidInput(
                f"{work_dir} holds an unfinished build of another recipe; "
                "allowed: that recipe, which continues it, or overwrite, which removes it"
            )
        if not path.exists() and any((work_dir / name).exists() for name in ours):
            raise InvalidInput(f"{work_dir} holds no unfinished build; allowed: another out_dir")
        remove_work(work_dir)
    with naming_failures(path):
        (work_dir / DATASET_FOLDER).mkdir(parents=True, exist_ok=True)
        path.write_text(_plan(job))


class _Counter:
    """Counts candidates for the progress callback."""

    def __init__(self, total: int, callback: Callable[[Progress], None] | None):
        self._progress = Progress(0, total, 0, 0)
        self._callback = callback

    def on_candidate(self, skipped: SkippedCandidate | None) -> None:
        """Count one candidate."""
        self._advance(1, [skipped] if skipped is not None else [])

    def add(self, job: ShardJob, reports: Mapping[ShardKey, ShardReport | None]) -> None:
        """Count whole shards."""
        done = [(len(job.indices(key)), r.skipped) for key, r in reports.items() if r is not None]
        self._advance(sum(n for n, _ in done), [s for _, skipped in done for s in skipped])

    def on_captions(self, done: int, total: int) -> None:
        """Say how many captions are embedded."""
        self._progress = dataclasses.replace(
            self._progress, captions_done=done, captions_total=total
        )
        if self._callback is not None:
            self._callback(self._progress)

    def _advance(self, number: int, skipped: Sequence[SkippedCandidate]) -> None:
        damaged = sum(candidate.damaged for candidate in skipped)
        before = self._progress
        self._progress = Progress(
            before.done + number,
            before.total,
            before.dropped + len(skipped) - damaged,
            before.damaged + damaged,
        )
        if self._callback is not None:
            self._callback(self._progress)


def _check_damaged(job: ShardJob, reports: Reports, max_share: float) -> None:
    """Refuse a dataset of which too much is missing; what is, is listed in the work folder."""
    damaged = [
        candidate
        for of_split in reports.values()
        for report in of_split
        for candidate in report.skipped
        if candidate.damaged
    ]
    total = sum(job.counts.values())
    if len(damaged) > max_share * total:
        path = epath.Path(job.work_dir) / MANIFEST_FILE
        with naming_failures(path):
            path.write_text(manifest(reports))
        raise InvalidInput(
            f"damaged candidates are {len(damaged)} of {total}, such as {damaged[0].what} "
            f"({damaged[0].reason}); allowed: max_damaged_share={max_share:g} of them; "
            f"all are listed in {path}"
        )
