"""Embeddings of captions beside a dataset's scenes: every different caption once.

    captions.array_record-00000-of-00004    records: SHA-256 of the caption, `text`, `pooled`
    captions_SPLIT.npy                      the caption's number, int32 [num_scenes]

A photograph without a caption has the empty one, and layered scenes repeat theirs, while one
caption of FLUX's encoders is a megabyte: hence once. Values are bfloat16, the type of FLUX's own
encoders, whose range float16 does not have. A record begins with its caption's digest, by which the
reader knows that index and table belong together.

Files appear whole under their names, one after the other, so a killed build keeps what it has.
"""

import dataclasses
import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath
from jaxtyping import Float32, Int32
from ml_dtypes import bfloat16

from bokeh_jax.errors import InvalidInput
from data_pipeline.dataset_folder import REBUILD, TextInfo, count_records
from data_pipeline.shards import (
    DATASET_FOLDER,
    WRITER_OPTIONS,
    ShardJob,
    ShardReport,
    appearing_whole,
    naming_failures,
)
from data_pipeline.text_encoder import TextEncoder, TextShape

_TABLE = "captions.array_record"
_DIGEST_BYTES = hashlib.sha256().digest_size
# About 32 files, so that a killed build loses little.
_NUM_FILES, _FILE_CAPTIONS = 32, (16, 1024)


@dataclasses.dataclass(frozen=True, eq=False)
class TextReader:
    """Embeddings of a split's scenes by position; picklable.

    Attributes:
        shape: of the embeddings.
        index: the caption's number of every scene.
        records: random access to the captions' records.
    """

    shape: TextShape
    index: Int32[np.ndarray, " num_scenes"]
    records: ArrayRecordDataSource

    def values(self, position: int, caption: bytes) -> dict[str, np.ndarray]:
        """Return `text` bfloat16 [t, d] and `pooled` bfloat16 [p] of a scene.

        Args:
            position: of the scene.
            caption: that its record has.

        Raises:
            ValueError: the embeddings are damaged, or another caption's.
        """
        try:
            record = self.records[int(self.index[position])]
        except (RuntimeError, OSError, IndexError) as error:
            raise ValueError(f"its caption's embeddings: {error}") from error
        shape = self.shape
        num_text = shape.num_tokens * shape.token_dim
        if len(record) != _DIGEST_BYTES + 2 * (num_text + shape.pooled_dim):
            raise ValueError(f"its caption's embeddings have {len(record)} bytes")
        if record[:_DIGEST_BYTES] != hashlib.sha256(caption).digest():
            raise ValueError("its caption's embeddings are another caption's")
        values = np.frombuffer(record, bfloat16, offset=_DIGEST_BYTES)
        return {
            "text": values[:num_text].reshape(shape.num_tokens, shape.token_dim),
            "pooled": values[num_text:],
        }


def write_text(
    job: ShardJob,
    reports: Mapping[str, Sequence[ShardReport]],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Embed the captions of finished shards beside them, but for those that are there already.

    Args:
        job: of the shards; its encoder is not None.
        reports: what is in them.
        on_progress: called with the numbers of captions embedded and in all.

    Returns:
        The number of different captions.

    Raises:
        InvalidInput: as the encoder; or a file cannot be written.
    """
    assert job.text_encoder is not None
    folder = epath.Path(job.work_dir) / DATASET_FOLDER
    numbers: dict[str, int] = {}
    for split, of_split in reports.items():
        scenes = (scene for report in of_split for scene in report.scenes)
        index = [numbers.setdefault(scene.caption, len(numbers)) for scene in scenes]
        if not index:
            continue
        file = io.BytesIO()
        np.save(file, np.array(index, np.int32))
        with naming_failures(folder / index_file(split)):
            (folder / index_file(split)).write_bytes(file.getvalue())
    captions = tuple(numbers)
    low, high = _FILE_CAPTIONS
    size = min(max(-(-len(captions) // _NUM_FILES), low), high)
    names = _file_names(-(-len(captions) // size))
    for number, name in enumerate(names):
        on_progress(number * size, len(captions))
        part = captions[number * size : (number + 1) * size]
        # Only whole files have these names.
        if not (folder / name).exists():
            _write_file(job, folder / name, part, job.text_encoder)
    on_progress(len(captions), len(captions))
    return len(captions)


def _write_file(
    job: ShardJob, target: epath.Path, captions: Sequence[str], encoder: TextEncoder
) -> None:
    text, pooled = encoder(captions)
    with appearing_whole(job, target) as temporary, naming_failures(target):
        writer = ArrayRecordWriter(str(temporary), WRITER_OPTIONS)
        try:
            for row, caption in enumerate(captions):
                digest = hashlib.sha256(caption.encode()).digest()
                writer.write(
                    digest + _bytes_of(text[row], caption) + _bytes_of(pooled[row], caption)
                )
        finally:
            writer.close()


def _bytes_of(values: Float32[np.ndarray, "..."], caption: str) -> bytes:
    if not np.isfinite(values).all():
        raise InvalidInput(
            f"embeddings of caption {caption[:40]!r} are not finite; allowed: encoders whose "
            "numbers stay in their type's range"
        )
    return values.astype(bfloat16).tobytes()


def index_file(split: str) -> str:
    """Name of the file with every scene's caption number."""
    return f"captions_{split}.npy"


def _file_names(count: int) -> list[str]:
    return [f"{_TABLE}-{number:05d}-of-{count:05d}" for number in range(count)]


def open_text(path: Path, split: str, text: TextInfo, num_scenes: int) -> TextReader:
    """Open the embeddings of a split's scenes.

    Raises:
        InvalidInput: a file is missing, cut short, or disagrees with the metadata.
    """
    file = path / index_file(split)
    try:
        index = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InvalidInput(
            f"index {file} cannot be read ({' '.join(str(error).split())}); {REBUILD}"
        ) from error
    whole = index.dtype == np.int32 and index.shape == (num_scenes,)
    if not whole or index.min() < 0 or index.max() >= text.num_captions:
        raise InvalidInput(f"index {file} disagrees with the dataset; {REBUILD}")
    files = sorted(path.glob(f"{_TABLE}-*"))
    found = sum(map(count_records, files))
    if [f.name for f in files] != _file_names(len(files)) or found != text.num_captions:
        raise InvalidInput(
            f"embeddings in {path} are {found} of {text.num_captions} captions'; {REBUILD}"
        )
    return TextReader(text.shape, index, ArrayRecordDataSource([str(f) for f in files]))
