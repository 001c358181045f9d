"""Writing a dataset: a TensorFlow Datasets builder over any scene source, and `build` around it.

Shards are ArrayRecord files (random access, no TensorFlow to write or read them). Frames are handed
over as PNG bytes, because encoding arrays is the one thing the image feature needs TensorFlow for.
Scenes are stored in the source's order, so a record's position is its scene's index.

`build` writes into a hidden folder beside the target and renames it when all is there: the target
is never half written. What a killed build left is removed by the next one on the same machine.
"""

import contextlib
import dataclasses
import hashlib
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from bokeh_jax.errors import InvalidInput
from data_pipeline.dataset import (
    DATASET_NAME,
    FORMAT_VERSION,
    METADATA_FILE,
    dataset_info,
    fingerprint_of,
    read_metadata,
)
from data_pipeline.layered import LayeredSource
from data_pipeline.records import Record, iterate_records
from data_pipeline.source import SPLITS, SceneSource, check_int, check_split

Progress = Callable[[int, int], None]

DEFAULT_COUNTS = {"train": 2000, "eval_seen": 64, "eval_heldout": 64}
# Record positions are int32 in a batch.
MAX_SCENES = 2**31 - 1


@dataclasses.dataclass(kw_only=True, eq=False)
class ScenesConfig(tfds.core.BuilderConfig):
    """A named dataset: which source, how many scenes, how many processes write them.

    Attributes:
        size_px: frame size of the default source.
        source: where scenes come from; layered scenes of `size_px` when None.
        counts: scenes of every split.
        num_workers: processes that make scenes; 0 makes them in the calling one.
        progress: called with (scenes written, scenes in all).
    """

    size_px: int = 48
    source: SceneSource | None = None
    counts: Mapping[str, int] = dataclasses.field(default_factory=lambda: dict(DEFAULT_COUNTS))
    num_workers: int = 0
    progress: Progress | None = None


class RefocusScenes(tfds.core.GeneratorBasedBuilder):
    """Scenes with known disparity, from which focus and aperture are simulated in training.

    It inherits because a builder is found, named and versioned by its class.
    """

    name = DATASET_NAME
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "Layered scenes and photographs with disparity."}
    BUILDER_CONFIGS: ClassVar = [
        ScenesConfig(
            name=f"layered_{size_px}px",
            description=f"Layered scenes of {size_px} pixels from photographs of open packages.",
            size_px=size_px,
        )
        for size_px in (48, 64, 128, 256)
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        config, source = self._config, self._source
        return tfds.core.DatasetInfo(
            builder=self,
            description=(
                "Scenes for learning control of focus and aperture: full RGBA layers with planes "
                "of disparity, or photographs with disparity maps. Nearer is larger."
            ),
            features=_features(source),
            metadata=tfds.core.MetadataDict(_metadata(source, config.counts)),
            disable_shuffling=True,
        )

    @property
    def _config(self) -> ScenesConfig:
        config = self.builder_config
        assert isinstance(config, ScenesConfig)
        return config

    @property
    def _source(self) -> SceneSource:
        config = self._config
        if config.source is None:
            config.source = LayeredSource(size_px=config.size_px)
        return config.source

    def _log_download_bytes(self) -> None:
        """Say nothing: nothing is downloaded."""

    def _log_download_done(self) -> None:
        """Say nothing: the caller gets a summary."""

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, Any]]]:
        del dl_manager
        config = self._config
        records = iterate_records(self._source, config.counts, config.num_workers)
        return {split: self._generate_examples(records, split) for split in config.counts}

    def _generate_examples(
        self, records: Iterator[Record], split: str
    ) -> Iterator[tuple[int, Any]]:
        """Yield one split's share of `records`, which hold the splits one after the other."""
        config, metadata = self._config, self.info.metadata
        assert metadata is not None
        earlier = list(config.counts)[: list(config.counts).index(split)]
        before, total = sum(config.counts[s] for s in earlier), sum(config.counts.values())
        content = hashlib.sha256()
        for index in range(config.counts[split]):
            record = next(records)
            if (record.split, record.index) != (split, index):
                raise RuntimeError(f"{split} {index} expected, {record.split} {record.index} came")
            content.update(record.digest)
            yield index, record.example
            if config.progress is not None:
                config.progress(before + index + 1, total)
        metadata["splits"][split]["content_sha256"] = content.hexdigest()


def _features(source: SceneSource) -> tfds.features.FeaturesDict:
    size_px, unit = source.size_px, source.disparity_unit
    unit_text = "1/m" if unit == "metric" else "relative, [0, 1]"
    provenance = tfds.features.Text(doc="JSON: the photographs that the scene was made from")
    if source.kind == "photographs":
        return tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(
                    shape=(size_px, size_px, 3), encoding_format="png", doc="sRGB-encoded"
                ),
                "disparity": tfds.features.Tensor(
                    shape=(size_px, size_px),
                    dtype=np.float32,
                    encoding="zlib",
                    doc=f"disparity ({unit_text}), nearer is larger",
                ),
                "provenance": provenance,
            }
        )
    return tfds.features.FeaturesDict(
        {
            "layers": tfds.features.Image(
                shape=(None, size_px, 4),
                encoding_format="png",
                doc=f"layers of {size_px} rows each, nearest on top; sRGB-encoded, straight alpha",
            ),
            "layer_disparity": tfds.features.Tensor(
                shape=(None, 3),
                dtype=np.float32,
                doc=f"(a, b, c): disparity ({unit_text}) = a x + b y + c, x and y in pixels",
            ),
            "provenance": provenance,
        }
    )


def _metadata(source: SceneSource, counts: Mapping[str, int]) -> dict[str, Any]:
    """Return what `metadata.json` says before the content's digests are known."""
    return {
        "format_version": FORMAT_VERSION,
        "kind": source.kind,
        "size_px": source.size_px,
        "max_layers": source.max_layers,
        "disparity_unit": source.disparity_unit,
        "recipe": source.recipe(),
        "splits": {split: {"num_scenes": count} for split, count in counts.items()},
    }


@dataclasses.dataclass(frozen=True)
class BuildSummary:
    """What `build` did.

    Attributes:
        path: the dataset folder.
        counts: scenes of every split.
        size_px: frame size, pixels.
        fingerprint: SHA-256 of recipe and content, hexadecimal.
        num_bytes: size of the folder's files.
        reused: a complete dataset with the same recipe was there and was kept.
    """

    path: Path
    counts: Mapping[str, int]
    size_px: int
    fingerprint: str
    num_bytes: int
    reused: bool


def build(
    source: SceneSource,
    out_dir: Path,
    *,
    counts: Mapping[str, int] | None = None,
    num_workers: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> BuildSummary:
    """Write a dataset of the source's scenes into `out_dir`, whole or not at all.

    Args:
        source: makes the scenes; seed and frame size are its own.
        out_dir: the dataset folder to make. If it is a complete dataset of the same recipe already,
            it is kept as it is.
        counts: scenes by split; when None, all that the source has. Splits of 0 are left out.
        num_workers: processes that make scenes, 0 for none beside this one; when None, one a core.
            The dataset is the same for any number.
        overwrite: replace a dataset of another recipe, or a damaged one.
        progress: called with (scenes written, scenes in all) after every scene.

    Raises:
        InvalidInput: a bad count; `out_dir` holds something else; whatever the source refuses.
    """
    counts = _checked_counts(source, counts)
    num_workers = (os.cpu_count() or 1) if num_workers is None else num_workers
    check_int("num_workers", num_workers, 0, 1024)
    metadata = _metadata(source, counts)
    if _keep_existing(out_dir, metadata, overwrite):
        return _summary(out_dir, reused=True)
    short_hash = fingerprint_of(metadata)[:8]
    config = ScenesConfig(
        name=f"{source.kind}_{source.size_px}px_{short_hash}",
        description=f"{source.kind} scenes of {source.size_px} pixels",
        size_px=source.size_px,
        source=source,
        counts=counts,
        num_workers=num_workers,
        progress=progress,
    )
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(out_dir)
    work_dir = out_dir.with_name(f"{_work_prefix(out_dir)}{os.getpid()}")
    try:
        built = _write(config, work_dir)
        if out_dir.exists():
            out_dir.rename(work_dir / "replaced")
        built.rename(out_dir)
    finally:
        shutil.rmtree(work_dir, ignore_errors=True)
    return _summary(out_dir, reused=False)


def _checked_counts(source: SceneSource, counts: Mapping[str, int] | None) -> dict[str, int]:
    """Return the splits with scenes in the order of SPLITS."""
    for split in counts or {}:
        check_split(split)
    checked = {}
    for split in SPLITS:
        available = source.num_scenes(split)
        wanted = available if counts is None else counts.get(split, 0)
        if wanted is None:
            raise InvalidInput(f"counts is None; allowed for endless {source.kind} scenes: numbers")
        check_int(f"counts[{split!r}]", wanted, 0, MAX_SCENES if available is None else available)
        if wanted:
            checked[split] = wanted
    if not checked:
        raise InvalidInput("counts has no scenes; allowed: at least one in one split")
    return checked


def _keep_existing(out_dir: Path, wanted: Mapping[str, Any], overwrite: bool) -> bool:
    """Whether `out_dir` is the wanted dataset; refuse what may not be replaced."""
    if not out_dir.exists() or (out_dir.is_dir() and not any(out_dir.iterdir())):
        return False
    if not (out_dir / METADATA_FILE).is_file():
        raise InvalidInput(f"out_dir is {out_dir}, which is no dataset; allowed: a new folder")
    try:
        found = read_metadata(out_dir)
        for split in found["splits"].values():
            split.pop("content_sha256", None)
        same = found == wanted
        if same:
            dataset_info(out_dir)
    except InvalidInput:
        if overwrite:
            return False
        raise
    if not same and not overwrite:
        raise InvalidInput(
            f"out_dir is {out_dir}, a dataset of another recipe; "
            "allowed: a new folder, or overwrite=True"
        )
    return same


def _work_prefix(out_dir: Path) -> str:
    return f".{out_dir.name}.building-{socket.gethostname()}-"


def _remove_leftovers(out_dir: Path) -> None:
    """Remove the work folders of builds on this machine whose process is gone."""
    prefix = _work_prefix(out_dir)
    for path in out_dir.parent.iterdir():
        pid = path.name.removeprefix(prefix)
        if path.name.startswith(prefix) and pid.isdigit() and not _is_running(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # Signal 0 only asks.
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _write(config: ScenesConfig, work_dir: Path) -> Path:
    """Run the builder in `work_dir`; return the dataset folder it made."""
    with _quiet():
        builder = RefocusScenes(
            config=config, data_dir=str(work_dir), file_format=tfds.core.FileFormat.ARRAY_RECORD
        )
        builder.download_and_prepare(
            download_dir=str(work_dir / "downloads"),
            download_config=tfds.download.DownloadConfig(try_download_gcs=False),
        )
    return Path(builder.data_dir)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Turn the library's progress bars and remarks off: `progress` reports instead."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        yield
    finally:
        tfds.enable_progress_bar()
        logging.set_verbosity(verbosity)


def _summary(out_dir: Path, *, reused: bool) -> BuildSummary:
    info = dataset_info(out_dir)
    num_bytes = sum(path.stat().st_size for path in out_dir.rglob("*") if path.is_file())
    return BuildSummary(
        out_dir, info.counts, info.size_px, info.fingerprint, num_bytes, reused=reused
    )
