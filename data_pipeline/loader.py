"""Batches for training: a pure function of (seed, step), the same on any number of hosts.

`order` says which rows global batch n has. Of H hosts, host h takes its rows h·B/H ...
(h + 1)·B/H − 1: shuffled globally first, cut by host afterwards. A run that resumes at step n
starts there at once.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import grain
import numpy as np
from absl import flags, logging
from jaxtyping import BFloat16, Float16, Float32, Int32, UInt8, UInt16

from data_pipeline.dataset import (
    DatasetInfo,
    Group,
    SplitReader,
    dataset_info,
    load_split,
    open_split,
)
from data_pipeline.host_batches import WANTED, HostBatches, why_unreadable
from data_pipeline.order import Order, Position, Shape, make_order
from data_pipeline.source import check_int

__all__ = [
    "Batch",
    "DatasetInfo",
    "Loader",
    "LoaderConfig",
    "Position",
    "Shape",
    "dataset_info",
    "load_split",
    "make_loader",
    "open_rows",
    "shapes",
]

# Far beyond any run, and the row numbers still fit into 64 bits.
MAX_STEPS = 2**40
MAX_BATCH = 2**20

Batch = dict[
    str,
    UInt8[np.ndarray, "b l h w 4"]
    | Float32[np.ndarray, "b l 3"]
    | Float32[np.ndarray, "b l"]
    | UInt8[np.ndarray, "b h w 3"]
    | UInt16[np.ndarray, "b h w"]
    | UInt8[np.ndarray, "b n"]
    | BFloat16[np.ndarray, "b t d"]
    | BFloat16[np.ndarray, "b p"]
    | Float16[np.ndarray, "b ..."]
    | Float32[np.ndarray, "b m 4"]
    | Int32[np.ndarray, "b"],
]


@dataclasses.dataclass(frozen=True)
class LoaderConfig:
    """What to load and how.

    Attributes:
        path: the dataset folder.
        split: name of the split.
        global_batch_size: examples of one step over all hosts.
        seed: decides the order, 0 to 2³² − 1.
        num_workers: processes that decode; 0 decodes in the calling one.
        num_threads: threads that decode, in each process; 0 decodes when a batch is asked for.
        shuffle: draw a permutation for every epoch; otherwise keep the stored order.
        max_layers: length of the layer axis; the most layers of each shape's sources when None.
        weights: of the sources by name, relative to each other; a source with weight 0, or without,
            is left out. When None, what the dataset says, else the sources' numbers of scenes.
        on_bad_record: `raise`, or `skip`: take the next readable scene in its place.
        text: bring the captions' embeddings, where the dataset has them.
        caption_bytes: bring so many bytes of every caption; 0 for none.
        taken: bring photographs through a camera's lens, and that camera.
    """

    path: Path
    split: str = "train"
    global_batch_size: int = 64
    seed: int = 0
    num_workers: int = 0
    num_threads: int = 4
    shuffle: bool = True
    max_layers: int | None = None
    weights: Mapping[str, float] | None = None
    on_bad_record: Literal["raise", "skip"] = "raise"
    text: bool = False
    caption_bytes: int = 0
    taken: bool = False

    def __post_init__(self):
        check_int("global_batch_size", self.global_batch_size, 1, MAX_BATCH)
        check_int("seed", self.seed, 0, 2**32 - 1)
        check_int("num_workers", self.num_workers, 0, 1024)
        check_int("num_threads", self.num_threads, 0, 1024)


def shapes(config: LoaderConfig) -> tuple[Shape, ...]:
    """Return every shape that batches of `config` have.

    Raises:
        InvalidInput: as `make_loader`.
    """
    return open_rows(config)[1].shapes


def open_rows(config: LoaderConfig) -> tuple[SplitReader, Order]:
    """Open what batches are made of: scenes by position, and which of them each batch has.

    Raises:
        InvalidInput: as `make_loader`.
    """
    scenes = open_split(
        config.path,
        config.split,
        config.max_layers,
        text=config.text,
        caption_bytes=config.caption_bytes,
        taken=config.taken,
    )
    order = make_order(
        scenes.groups,
        config.global_batch_size,
        config.seed if config.shuffle else None,
        _weights(config, scenes),
    )
    beside = {
        "text": None if scenes.text is None else scenes.text.shape,
        "latents": None if scenes.info.latents is None else scenes.info.latents.sizes,
        "caption_bytes": config.caption_bytes,
        "taken": scenes.taken,
    }
    shapes = tuple(dataclasses.replace(shape, **beside) for shape in order.shapes)
    order = dataclasses.replace(order, shapes=shapes)
    # Sources whose scenes stand in one batch are filled up to one number of layers.
    layers = {(s.kind, s.height_px, s.width_px): s.max_layers for s in order.shapes}

    def widened(group: Group) -> Group:
        shape = (group.kind, group.height_px, group.width_px)
        return dataclasses.replace(group, max_layers=layers.get(shape, group.max_layers))

    return dataclasses.replace(scenes, groups=tuple(map(widened, scenes.groups))), order


def _weights(config: LoaderConfig, scenes: SplitReader) -> Mapping[str, float] | None:
    """The config's weights, or the dataset's for the sources that this split has."""
    if config.weights is not None or not scenes.info.weights:
        return config.weights
    return {group.source: scenes.info.weights.get(group.source, 1.0) for group in scenes.groups}


class Loader:
    """This host's batches in turn, without end.

    Attributes:
        shapes: that batches have.
        num_replaced: rows so far that had to take another scene, as their record cannot be read.
    """

    def __init__(
        self,
        order: Order,
        scenes: SplitReader,
        batches: grain.DatasetIterator[dict[str, np.ndarray]],
        warn: Callable[[str], None],
    ):
        self.shapes = order.shapes
        self.num_replaced = 0
        self._order, self._scenes, self._warn = order, scenes, warn
        self._batches: Iterator[dict[str, np.ndarray]] = batches
        self._bad: set[int] = set()

    def __iter__(self) -> "Loader":
        return self

    def __next__(self) -> Batch:
        """Return the next batch.

        Raises:
            InvalidInput: a record cannot be read; the line names scene, shard and record.
            StopIteration: the loader was closed.
        """
        batch = next(self._batches)
        wanted = batch.pop(WANTED, None)
        if wanted is not None:
            self._count_replaced(wanted, batch["scene_id"])
        # What comes from another process lies in shared memory, of which there is little, and which
        # would be held for as long as anyone holds the batch.
        return {
            name: value if value.flags.owndata else np.array(value) for name, value in batch.items()
        }

    def position_at(self, step: int) -> Position:
        """Where batch `step` begins: its shape, and the epoch and scene of each source."""
        return self._order.position_at(step)

    def close(self) -> None:
        """End threads and processes; there is no next batch then."""
        # Let go of the library's iterator: one that is left to the interpreter's end complains.
        batches, self._batches = self._batches, iter(())
        if isinstance(batches, grain.DatasetIterator):
            batches.close()

    def _count_replaced(self, wanted: np.ndarray, found: np.ndarray) -> None:
        for position in wanted[wanted != found].tolist():
            self.num_replaced += 1
            if position not in self._bad:
                self._bad.add(position)
                reason = why_unreadable(self._scenes, position)
                self._warn(f"{reason}; its rows take the next scene instead")


def make_loader(
    config: LoaderConfig,
    *,
    start_step: int = 0,
    rows: Sequence[int] | None = None,
    warn: Callable[[str], None] = logging.warning,
) -> Loader:
    """Return this host's part of batches `start_step`, `start_step` + 1, …, without end.

    Args:
        config: what to load.
        start_step: the first batch; reaching it costs nothing.
        rows: of every global batch, that this host wants, in this order; None for all.
        warn: called with one line for every bad record that is skipped, once each.

    Returns:
        Dictionaries of `layers` uint8 [b, l, h, w, 4], `layer_disparity` float32 [b, l, 3] and
        `layer_gain` float32 [b, l], or `image` uint8 [b, h, w, 3] and `disparity` uint16 [b, h, w]
        (65535 is 1); and `scene_id` int32 [b], with b = the number of rows; where they are wanted
        and there, `text` bfloat16 [b, t, d] and `pooled` bfloat16 [b, p]; where wanted, `caption`
        uint8 [b, n]. Of latents: the arrays of `latent_records`, stacked, and `scene_id`. A batch
        is of one of `.shapes`. `.close()` ends its threads and processes.

    Raises:
        InvalidInput: a number out of range, weights that do not fit the sources, or as
            `dataset.open_split`.
    """
    check_int("start_step", start_step, 0, MAX_STEPS - 1)
    wanted = range(config.global_batch_size) if rows is None else tuple(rows)
    for row in wanted:
        check_int("row", row, 0, config.global_batch_size - 1)
    scenes, order = open_rows(config)
    parts = HostBatches(order, scenes, wanted, config.on_bad_record == "skip")
    batches = (
        grain.MapDataset.range(start_step, MAX_STEPS)
        .map(parts)
        .to_iter_dataset(
            grain.ReadOptions(
                num_threads=config.num_threads, prefetch_buffer_size=2 * config.num_threads
            )
        )
    )
    if config.num_workers:
        _accept_flag_defaults()
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(config.num_workers))
    return Loader(order, scenes, iter(batches), warn)


def _accept_flag_defaults() -> None:
    """Let absl's flags answer with their defaults.

    Grain reads flags when it starts processes, and absl refuses until a program has parsed its
    arguments with absl, which ours do not. A program that parses them later still can.
    """
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
