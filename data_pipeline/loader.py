"""Batches for training: a pure function of (seed, step), the same on any number of hosts.

Let N be the split's size, B the global batch and π_e the permutation of epoch e, drawn from
(seed, e). The run's endless row sequence is

    row(g) = π_{g div N}(g mod N),

and batch n is the rows n·B ... (n + 1)·B − 1, so a batch may span two epochs and every epoch covers
every scene once. Of H hosts, host h takes the rows n·B + h·B/H ... n·B + (h + 1)·B/H − 1: shuffled
globally first, cut by host afterwards. Rows are computed by position, so a run that resumes at step
n starts there at once.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import grain
import numpy as np
from absl import flags
from jaxtyping import Float32, Int32, UInt8

from bokeh_jax.errors import InvalidInput
from data_pipeline.dataset import (
    DatasetInfo,
    SplitReader,
    dataset_info,
    load_split,
    open_split,
)
from data_pipeline.source import check_int

__all__ = ["Batch", "DatasetInfo", "LoaderConfig", "dataset_info", "load_split", "make_loader"]

# Far beyond any run, and the row numbers still fit into 64 bits.
MAX_STEPS = 2**40
MAX_BATCH = 2**20

Batch = dict[
    str,
    UInt8[np.ndarray, "b l h w 4"]
    | Float32[np.ndarray, "b l 3"]
    | UInt8[np.ndarray, "b h w 3"]
    | Float32[np.ndarray, "b h w"]
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
        max_layers: length of the layer axis; the dataset's own maximum when None.
    """

    path: Path
    split: str = "train"
    global_batch_size: int = 64
    seed: int = 0
    num_workers: int = 0
    num_threads: int = 4
    shuffle: bool = True
    max_layers: int | None = None

    def __post_init__(self):
        check_int("global_batch_size", self.global_batch_size, 1, MAX_BATCH)
        check_int("seed", self.seed, 0, 2**32 - 1)
        check_int("num_workers", self.num_workers, 0, 1024)
        check_int("num_threads", self.num_threads, 0, 1024)


@dataclasses.dataclass(frozen=True, eq=False)
class _HostRows:
    """This host's rows by number; see the module's header."""

    order: grain.MapDataset[int]
    scenes: SplitReader
    global_batch_size: int
    host_batch_size: int
    process_index: int

    def __call__(self, host_row: int) -> dict[str, np.ndarray]:
        step, row = divmod(host_row, self.host_batch_size)
        first = step * self.global_batch_size + self.process_index * self.host_batch_size
        position = self.order[first + row]
        assert position is not None
        return self.scenes[position]


def make_loader(
    config: LoaderConfig, *, start_step: int = 0, process_index: int = 0, process_count: int = 1
) -> Iterator[Batch]:
    """Return an endless iterator over this host's part of batches `start_step`, `start_step` + 1, …

    Args:
        config: what to load.
        start_step: the first batch; reaching it costs nothing.
        process_index: this host, 0 to `process_count` − 1.
        process_count: number of hosts; divides the global batch size.

    Returns:
        Dictionaries of `layers` uint8 [b, l, h, w, 4] and `layer_disparity` float32 [b, l, 3], or
        `image` uint8 [b, h, w, 3] and `disparity` float32 [b, h, w], and `scene_id` int32 [b], with
        b = global batch size / `process_count`. `.close()` ends its threads and processes.

    Raises:
        InvalidInput: a number out of range, a batch that the hosts cannot share evenly, or as
            `dataset.open_split`.
    """
    check_int("start_step", start_step, 0, MAX_STEPS - 1)
    check_int("process_count", process_count, 1, MAX_BATCH)
    check_int("process_index", process_index, 0, process_count - 1)
    if config.global_batch_size % process_count:
        raise InvalidInput(
            f"global_batch_size is {config.global_batch_size}; "
            f"allowed with {process_count} hosts: multiples of {process_count}"
        )
    scenes = open_split(config.path, config.split, config.max_layers)
    host_batch_size = config.global_batch_size // process_count
    order = grain.MapDataset.range(len(scenes)).seed(config.seed)
    order = (order.shuffle() if config.shuffle else order).repeat()
    rows = _HostRows(order, scenes, config.global_batch_size, host_batch_size, process_index)
    batches = (
        grain.MapDataset.range(start_step * host_batch_size, MAX_STEPS * host_batch_size)
        .map(rows)
        .batch(host_batch_size)
        .to_iter_dataset(
            grain.ReadOptions(
                num_threads=config.num_threads, prefetch_buffer_size=2 * config.num_threads
            )
        )
    )
    if config.num_workers:
        _accept_flag_defaults()
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(config.num_workers))
    return iter(batches)


def _accept_flag_defaults() -> None:
    """Let absl's flags answer with their defaults.

    Grain reads flags when it starts processes, and absl refuses until a program has parsed its
    arguments with absl, which ours do not. A program that parses them later still can.
    """
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
