"""A shard of a dataset: a pure function of (source, split, number), whoever makes it and where.

Shard k of a split holds the candidates k·C ... (k + 1)·C − 1 in order, without those that are
skipped; C is `scenes_per_shard`. Its file appears whole under its name, and beside it a sidecar
says what is in it. The sidecar comes last: where it is, the shard is finished, and a build that was
killed need not make it again.

    <work>/dataset/refocus_scenes-train.array_record-00003-of-00012      the shard
    <work>/sidecars/refocus_scenes-train.array_record-00003-of-00012.json
"""

import contextlib
import dataclasses
import json
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath

from bokeh_jax.errors import InvalidInput
from data_pipeline.mixture import MixtureSource
from data_pipeline.records import (
    DATASET_NAME,
    check_scene,
    digest_scene,
    encode_scene,
    serialize_record,
)
from data_pipeline.source import Kind, LayeredScene, Scene, SceneSource, SkippedScene, kind_of
from data_pipeline.text_encoder import TextEncoder

# Random access reads single records: each is a group of its own.
WRITER_OPTIONS = "group_size:1"
DATASET_FOLDER, SIDECAR_FOLDER, TEMPORARY_FOLDER = "dataset", "sidecars", "tmp"


@dataclasses.dataclass(frozen=True)
class StoredScene:
    """What a sidecar says of one record.

    Attributes:
        kind: of the scene.
        source: name of the source that made it.
        height_px: of its frame.
        width_px: of its frame.
        num_layers: 0 for photographs.
        digest: SHA-256 of the scene, hexadecimal.
        caption: of the scene.
    """

    kind: Kind
    source: str
    height_px: int
    width_px: int
    num_layers: int
    digest: str
    caption: str


@dataclasses.dataclass(frozen=True)
class SkippedCandidate:
    """A candidate that is not in the dataset.

    Attributes:
        index: among the split's candidates.
        what: names the file or scene.
        reason: one line.
        damaged: the input is at fault; False where a filter dropped it.
    """

    index: int
    what: str
    reason: str
    damaged: bool


@dataclasses.dataclass(frozen=True)
class ShardReport:
    """What is in a finished shard.

    Attributes:
        num_bytes: size of its file.
        scenes: of every record, in order.
        skipped: the candidates that are not in it.
    """

    num_bytes: int
    scenes: tuple[StoredScene, ...]
    skipped: tuple[SkippedCandidate, ...]


@dataclasses.dataclass(frozen=True)
class ShardKey:
    """Names a shard of a build: its split, and its number in it."""

    split: str
    number: int


@dataclasses.dataclass(frozen=True)
class ShardJob:
    """What all shards of a build are made from, and where; picklable.

    Attributes:
        source: makes the scenes.
        counts: candidates of every split.
        scenes_per_shard: candidates of every shard, by split; the last has the rest.
        jpeg_quality: store photographs as JPEG; as PNG when None.
        work_dir: the build's folder; any path or URL that etils' epath can write.
        text_encoder: embeds the captions when the shards are made; None for no embeddings.
    """

    source: SceneSource
    counts: Mapping[str, int]
    scenes_per_shard: Mapping[str, int]
    jpeg_quality: int | None
    work_dir: str
    text_encoder: TextEncoder | None = None

    def num_shards(self, split: str) -> int:
        """Return how many shards a split has."""
        return -(-self.counts[split] // self.scenes_per_shard[split])

    def all_keys(self) -> list[ShardKey]:
        """Return every shard, in the dataset's order."""
        return [
            ShardKey(split, number)
            for split in self.counts
            for number in range(self.num_shards(split))
        ]

    def indices(self, key: ShardKey) -> range:
        """Return the candidates of a shard."""
        size = self.scenes_per_shard[key.split]
        return range(key.number * size, min((key.number + 1) * size, self.counts[key.split]))

    def file_name(self, key: ShardKey) -> str:
        """Return the name of a shard's file."""
        return (
            f"{DATASET_NAME}-{key.split}.array_record-"
            f"{key.number:05d}-of-{self.num_shards(key.split):05d}"
        )

    def shard_path(self, key: ShardKey) -> epath.Path:
        """Return where a shard is written."""
        return epath.Path(self.work_dir) / DATASET_FOLDER / self.file_name(key)

    def sidecar_path(self, key: ShardKey) -> epath.Path:
        """Return where a shard's sidecar is written."""
        return epath.Path(self.work_dir) / SIDECAR_FOLDER / f"{self.file_name(key)}.json"


OnCandidate = Callable[[SkippedCandidate | None], None]


def finished_shard(job: ShardJob, key: ShardKey) -> ShardReport | None:
    """Return what is in a shard, or None where it is not finished."""
    try:
        content = json.loads(job.sidecar_path(key).read_text())
        report = ShardReport(
            num_bytes=content["num_bytes"],
            scenes=tuple(StoredScene(*scene) for scene in content["scenes"]),
            skipped=tuple(SkippedCandidate(*candidate) for candidate in content["skipped"]),
        )
        whole = job.shard_path(key).stat().length == report.num_bytes
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return report if whole else None


def make_shard(
    job: ShardJob, key: ShardKey, on_candidate: OnCandidate = lambda skipped: None
) -> ShardReport:
    """Make a shard, unless it is there already.

    Args:
        job: what it is made from.
        key: which shard.
        on_candidate: called after every candidate, with why it was skipped or None.

    Raises:
        InvalidInput: the shard cannot be written; or as the source.
    """
    report = finished_shard(job, key)
    if report is not None:
        return report
    scenes: list[StoredScene] = []
    skipped: list[SkippedCandidate] = []
    shard = job.shard_path(key)
    with appearing_whole(job, shard) as temporary:
        with naming_failures(shard):
            writer = ArrayRecordWriter(str(temporary), WRITER_OPTIONS)
        try:
            for index in job.indices(key):
                made = _make_candidate(job, key.split, index)
                if isinstance(made, SkippedCandidate):
                    skipped.append(made)
                else:
                    with naming_failures(shard):
                        writer.write(made[0])
                    scenes.append(made[1])
                on_candidate(made if isinstance(made, SkippedCandidate) else None)
        finally:
            with naming_failures(shard):
                writer.close()
        num_bytes = temporary.stat().st_size
    report = ShardReport(num_bytes, tuple(scenes), tuple(skipped))
    with appearing_whole(job, job.sidecar_path(key)) as temporary, naming_failures(shard):
        temporary.write_text(_sidecar(report))
    return report


def _sidecar(report: ShardReport) -> str:
    content = {
        "num_bytes": report.num_bytes,
        "scenes": [dataclasses.astuple(scene) for scene in report.scenes],
        "skipped": [dataclasses.astuple(candidate) for candidate in report.skipped],
    }
    return json.dumps(content)


def _make_candidate(
    job: ShardJob, split: str, index: int
) -> tuple[bytes, StoredScene] | SkippedCandidate:
    """Make one candidate's record; what the source cannot make is skipped."""
    name = job.source.name
    if isinstance(job.source, MixtureSource):
        name = job.source.part_name(split, index)
    try:
        scene = job.source.scene(split, index)
    except SkippedScene as skipped:
        reason = " ".join(skipped.reason.split())
        return SkippedCandidate(index, skipped.what, reason, skipped.damaged)
    except InvalidInput:
        raise
    except Exception as error:
        error.add_note(f"while making candidate {index} of split {split!r} of {name}")
        raise
    try:
        check_scene(scene)
    except ValueError as error:
        return SkippedCandidate(index, f"{name} {split} {index}", str(error), damaged=True)
    record = serialize_record(encode_scene(scene, name, job.jpeg_quality))
    return record, _stored(scene, name)


def _stored(scene: Scene, name: str) -> StoredScene:
    num_layers = len(scene.layers) if isinstance(scene, LayeredScene) else 0
    digest = digest_scene(scene).hex()
    return StoredScene(kind_of(scene), name, *scene.frame, num_layers, digest, scene.caption)


@contextlib.contextmanager
def appearing_whole(job: ShardJob, target: epath.Path) -> Iterator[Path]:
    """Give a temporary local file that becomes `target` when the block ends without an error.

    Local targets are renamed to, which is atomic. To others (object stores) the whole file is
    copied: there an object appears when it is complete.
    """
    if is_local(job.work_dir):
        folder = Path(job.work_dir) / TEMPORARY_FOLDER
        temporary = folder / f"{target.name}.{uuid.uuid4().hex}"
        try:
            with naming_failures(target):
                folder.mkdir(parents=True, exist_ok=True)
                Path(target).parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with naming_failures(target):
                os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / target.name
        with naming_failures(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            epath.Path(folder, target.name).copy(target, overwrite=True)


def is_local(path: str) -> bool:
    """Whether a path is on this machine's file systems, not a URL such as gs://..."""
    return "://" not in path


@contextlib.contextmanager
def naming_failures(target: Any) -> Iterator[None]:
    """Say which file could not be written, as what the user can mend: room or rights."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise InvalidInput(
            f"{target} cannot be written ({' '.join(str(error).split())}); allowed: a folder with "
            "room, in which you may write; a next build keeps the finished shards"
        ) from error
