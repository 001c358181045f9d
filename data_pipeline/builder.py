"""Writing a dataset of any scene source: whole or not at all, and continued where it was killed.

Shards (data_pipeline.shards) are made in a work folder beside the target, `<out>.building`, by any
runner (data_pipeline.runners). A killed build leaves the finished ones there, and the next build of
the same recipe continues from them; the files are the same, byte for byte. When all are there, the
library's description of the dataset is written beside them, and the folder is renamed: the target
is never half written.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from bokeh_jax.errors import InvalidInput
from data_pipeline.dataset_folder import (
    METADATA_FILE,
    DatasetInfo,
    dataset_info,
    fingerprint_of,
    info_from,
    read_metadata,
)
from data_pipeline.locks import folder_lock
from data_pipeline.shard_build import (
    REPLACED_FOLDER,
    BuildOptions,
    Progress,
    content_plan,
    make_job,
    make_shards,
    remove_useless_work,
    remove_work,
    same_plan,
    source_weights,
)
from data_pipeline.shards import DATASET_FOLDER, ShardJob, is_local, naming_failures
from data_pipeline.source import SceneSource
from data_pipeline.tfds_builder import DEFAULT_COUNTS, RefocusScenes, ScenesConfig

__all__ = [
    "DEFAULT_COUNTS",
    "BuildOptions",
    "BuildSummary",
    "Progress",
    "RefocusScenes",
    "ScenesConfig",
    "build",
]


@dataclasses.dataclass(frozen=True)
class BuildSummary:
    """What `build` did.

    Attributes:
        path: the dataset folder, or its URL.
        info: what it holds.
        num_dropped: candidates that a filter dropped.
        num_damaged: candidates that could not be made.
        num_bytes: size of the folder's files.
        reused: a complete dataset with the same recipe was there and was kept.
    """

    path: str
    info: DatasetInfo
    num_dropped: int
    num_damaged: int
    num_bytes: int
    reused: bool


def build(
    source: SceneSource,
    out_dir: epath.PathLike,
    *,
    counts: Mapping[str, int] | None = None,
    overwrite: bool = False,
    options: BuildOptions | None = None,
    **fields: Any,
) -> BuildSummary:
    """Write a dataset of the source's scenes into `out_dir`, whole or not at all.

    Args:
        source: makes the scenes; seed and frame sizes are its own.
        out_dir: the dataset folder to make. If it is a complete dataset of the same recipe already,
            it is kept as it is.
        counts: candidates by split; all that the source has when None.
        overwrite: replace a dataset of another recipe, a damaged one, or what is left of a build of
            another recipe.
        options: how it is written; fields of it may be given as keywords as well.

    Raises:
        InvalidInput: a bad count or option; `out_dir` holds something else, or another build is
            writing it; no room; too many damaged candidates; whatever the source refuses.
    """
    options = dataclasses.replace(options or BuildOptions(), **fields)
    target = epath.Path(out_dir)
    work_dir = target.with_name(f"{target.name}.building")
    job = make_job(source, counts, options, work_dir)
    if _keep_existing(target, job, overwrite):
        if same_plan(job):
            # A build was killed after its last step but one.
            with folder_lock(work_dir):
                remove_work(work_dir)
        return _summary(target, reused=True)
    with folder_lock(work_dir):
        try:
            reports = make_shards(job, options, overwrite)
        except BaseException:
            remove_useless_work(work_dir)
            raise
        with naming_failures(work_dir), _quiet():
            short_hash = fingerprint_of(content_plan(job))[:8]
            config = ScenesConfig(
                name=f"{source.name}_{short_hash}",
                description=f"Scenes of {source.name}.",
                source=source,
            )
            builder = RefocusScenes(config=config, data_dir=os.fspath(work_dir))
            builder.describe(job, reports)
            builder.info.write_to_directory(work_dir / DATASET_FOLDER)
        _put_in_place(work_dir, target)
    return _summary(target, reused=False)


def _put_in_place(work_dir: epath.Path, out_dir: epath.Path) -> None:
    """Rename the finished folder to its target, and remove what is left."""
    with naming_failures(out_dir):
        if out_dir.exists():
            if (work_dir / REPLACED_FOLDER).exists():
                (work_dir / REPLACED_FOLDER).rmtree()
            out_dir.rename(work_dir / REPLACED_FOLDER)
        (work_dir / DATASET_FOLDER).rename(out_dir)
        remove_work(work_dir)


def _keep_existing(out_dir: epath.Path, job: ShardJob, overwrite: bool) -> bool:
    """Whether `out_dir` is the wanted dataset; refuse what may not be replaced."""
    if not out_dir.exists() or (out_dir.is_dir() and not any(out_dir.iterdir())):
        return False
    if not (out_dir / METADATA_FILE).is_file():
        raise InvalidInput(f"out_dir is {out_dir}, which is no dataset; allowed: a new folder")
    wanted = content_plan(job) | {"weights": source_weights(job.source)}
    try:
        found = read_metadata(out_dir)
        same = all(found.get(name) == value for name, value in wanted.items())
        same = same and found.get("text") == wanted.get("text")
        if same and is_local(os.fspath(out_dir)):
            dataset_info(Path(out_dir))
    except InvalidInput:
        if overwrite:
            return False
        raise
    if not same and not overwrite:
        raise InvalidInput(
            f"out_dir is {out_dir}, a dataset of another recipe; "
            "allowed: a new folder, or overwrite (which replaces it)"
        )
    return same


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Turn the library's progress bars and remarks off: the caller has its own."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        yield
    finally:
        tfds.enable_progress_bar()
        logging.set_verbosity(verbosity)


def _summary(out_dir: epath.Path, *, reused: bool) -> BuildSummary:
    metadata = read_metadata(out_dir)
    # Shards in an object store cannot be opened by the reader that would check them.
    local = is_local(os.fspath(out_dir))
    return BuildSummary(
        path=os.fspath(out_dir),
        info=dataset_info(Path(out_dir)) if local else info_from(Path(out_dir), metadata),
        num_dropped=sum(split["num_dropped"] for split in metadata["splits"].values()),
        num_damaged=sum(split["num_damaged"] for split in metadata["splits"].values()),
        num_bytes=sum(path.stat().length for path in out_dir.iterdir() if path.is_file()),
        reused=reused,
    )
