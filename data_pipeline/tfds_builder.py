"""The dataset as TensorFlow Datasets knows it: its builder class, configs, features and splits."""

import dataclasses
import hashlib
import io
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from jaxtyping import UInt16
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder
from tensorflow_datasets.core.splits import SplitDict

from bokeh_jax.errors import InvalidInput
from data_pipeline.dataset import FORMAT_VERSION, Group, groups_file
from data_pipeline.latent_records import latent_features
from data_pipeline.locks import folder_lock
from data_pipeline.records import DATASET_NAME, features
from data_pipeline.shard_build import (
    MANIFEST_FILE,
    BuildOptions,
    Reports,
    content_plan,
    make_job,
    make_shards,
    manifest,
    remove_work,
    source_weights,
)
from data_pipeline.shards import DATASET_FOLDER, ShardJob, StoredScene
from data_pipeline.source import Kind, SceneSource

DEFAULT_COUNTS = {"train": 2000, "eval_seen": 128, "eval_heldout": 128}
MAX_GROUPS = 2**16


@dataclasses.dataclass(kw_only=True, eq=False)
class ScenesConfig(tfds.core.BuilderConfig):
    """A named dataset: which source, how many scenes, how it is written.

    Attributes:
        size_px: frame size of the default source.
        source: where scenes come from; layered scenes of `size_px` when None.
        counts: candidates of every split; all that the source has when None.
        options: how it is written.
    """

    size_px: int = 48
    source: SceneSource | None = None
    counts: Mapping[str, int] | None = None
    options: BuildOptions = dataclasses.field(default_factory=BuildOptions)


class RefocusScenes(FileReaderBuilder):
    """Scenes with known disparity, from which focus and aperture are simulated in training.

    It inherits because a builder is found, named and versioned by its class. Its preparation is
    resumable like `builder.build`: shards are made in a folder beside the dataset's.
    """

    name = DATASET_NAME
    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES: ClassVar = {
        "2.0.0": "One record for photographs and layered scenes; captions, cameras, masks.",
        "1.0.0": "Layered scenes and photographs with disparity.",
    }
    BUILDER_CONFIGS: ClassVar = [
        ScenesConfig(
            name=f"layered_{size_px}px",
            description=f"Layered scenes of {size_px} pixels from photographs of open packages.",
            size_px=size_px,
            counts=DEFAULT_COUNTS,
        )
        for size_px in (48, 64, 128, 256)
    ]

    def __init__(self, *, file_format: Any = None, **kwargs: Any):
        """As the library's builders, but that the shards are always ArrayRecord."""
        array_record = tfds.core.FileFormat.ARRAY_RECORD
        if file_format is not None and tfds.core.FileFormat(file_format) != array_record:
            raise InvalidInput(f"file_format is {file_format}; allowed: {array_record.value}")
        super().__init__(file_format=array_record, **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        # A source of latents says their sizes.
        latents = getattr(getattr(self.builder_config, "source", None), "latents", None)
        return tfds.core.DatasetInfo(
            builder=self,
            description=(
                "Scenes for learning control of focus and aperture: full RGBA layers with planes "
                "of disparity, or photographs with disparity maps. Nearer is larger."
            ),
            features=features() if latents is None else latent_features(),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _log_download_bytes(self) -> None:
        """Say nothing: nothing is downloaded."""

    def _log_download_done(self) -> None:
        """Say nothing: the caller gets a summary."""

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        """Make the shards beside the dataset's folder, describe them, and move all in."""
        del dl_manager, download_config
        config = self.builder_config
        assert isinstance(config, ScenesConfig)
        source = config.source
        if source is None:
            from data_pipeline.layered import LayeredSource

            source = LayeredSource(size_px=config.size_px)
        work_dir = self.data_dir_root / self.name / config.name / f"{self.version}.building"
        job = make_job(source, config.counts, config.options, work_dir)
        with folder_lock(work_dir):
            reports = make_shards(job, config.options, overwrite=False)
            self.describe(job, reports)
            for file in (work_dir / DATASET_FOLDER).iterdir():
                file.rename(self.data_path / file.name)
            remove_work(work_dir)

    def describe(self, job: ShardJob, reports: Reports) -> None:
        """Write our own files beside the shards, and tell the library what it will write."""
        metadata, indices = describe_content(job, reports)
        folder = epath.Path(job.work_dir) / DATASET_FOLDER
        for split, index in indices.items():
            file = io.BytesIO()
            np.save(file, index)
            (folder / groups_file(split)).write_bytes(file.getvalue())
        (folder / MANIFEST_FILE).write_text(manifest(reports))
        assert self.info.metadata is not None
        self.info.metadata.update(metadata)
        splits = [
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[len(report.scenes) for report in reports[split]],
                num_bytes=sum(report.num_bytes for report in reports[split]),
            )
            for split in indices
        ]
        self.info.set_splits(SplitDict(splits))


def describe_content(
    job: ShardJob, reports: Reports
) -> tuple[dict[str, Any], dict[str, UInt16[np.ndarray, " num_scenes"]]]:
    """Return the content of `metadata.json`, and every record's group, by split.

    Raises:
        InvalidInput: there is no scene in any split.
    """
    max_layers: dict[str, int] = {}
    for of_split in reports.values():
        for report in of_split:
            for scene in report.scenes:
                found = max_layers.get(scene.source, 0)
                max_layers[scene.source] = max(found, scene.num_layers)
    splits, indices = {}, {}
    for split, of_split in reports.items():
        scenes = [scene for report in of_split for scene in report.scenes]
        skipped = [candidate for report in of_split for candidate in report.skipped]
        if not scenes:
            continue
        groups, indices[split] = _group(scenes, max_layers)
        content = hashlib.sha256(b"".join(bytes.fromhex(scene.digest) for scene in scenes))
        num_damaged = sum(candidate.damaged for candidate in skipped)
        splits[split] = {
            "num_scenes": len(scenes),
            "num_candidates": job.counts[split],
            "num_dropped": len(skipped) - num_damaged,
            "num_damaged": num_damaged,
            "content_sha256": content.hexdigest(),
            "groups": [dataclasses.asdict(group) for group in groups],
        }
    if not splits:
        raise InvalidInput(
            f"all {sum(job.counts.values())} candidates are skipped; allowed: at least one scene"
        )
    metadata: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        **content_plan(job),
        "weights": source_weights(job.source),
        "splits": splits,
    }
    if job.text_encoder is not None:
        captions = {s.caption for reports_ in reports.values() for r in reports_ for s in r.scenes}
        metadata["num_captions"] = len(captions)
    return metadata, indices


def _group(
    scenes: list[StoredScene], max_layers: Mapping[str, int]
) -> tuple[list[Group], UInt16[np.ndarray, " num_scenes"]]:
    """Sort scenes into groups -> (the groups in order, every scene's)."""
    keys: list[tuple[Kind, str, int, int]] = [
        (s.kind, s.source, s.height_px, s.width_px) for s in scenes
    ]
    order = {key: position for position, key in enumerate(sorted(set(keys)))}
    if len(order) > MAX_GROUPS:
        raise InvalidInput(
            f"groups of kind, source and frame are {len(order)}; allowed: up to {MAX_GROUPS}"
        )
    index = np.array([order[key] for key in keys], np.uint16)
    sizes = np.bincount(index, minlength=len(order))
    groups = [
        Group(kind, source, height, width, max_layers[source] if kind == "layered" else 0, int(n))
        for (kind, source, height, width), n in zip(order, sizes, strict=True)
    ]
    return groups, index
