"""One host's part of a batch: its rows, decoded and stacked; what becomes of damaged records.

A record that cannot be read is an error, or, where the config says so, its row takes the next
readable scene of the same group in stored order. Which one is a function of the record's position
alone, so that this too is the same on any host, in any process and after any restart.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from bokeh_jax.errors import InvalidInput
from data_pipeline.dataset import SplitReader
from data_pipeline.order import Order

# In a batch on its way out of the decoding process: the scenes that its rows were meant to have.
WANTED = "wanted_scene_id"


@dataclasses.dataclass(frozen=True, eq=False)
class HostBatches:
    """This host's part of any batch, by step; picklable.

    Attributes:
        order: which rows a batch has.
        scenes: by position.
        rows: of every batch, that this host has.
        skip: replace scenes that cannot be read; each batch then has `WANTED`, int32 [b], the
            positions of the scenes that its rows were meant to have.
    """

    order: Order
    scenes: SplitReader
    rows: Sequence[int]
    skip: bool

    # Made where it is needed, not sent to the processes: eight bytes a scene.
    @functools.cached_property
    def positions(self) -> dict[int, np.ndarray]:
        """Positions of the scenes of every group."""
        used = (number for numbers in self.order.groups for number in numbers)
        return {number: self.scenes.positions(number) for number in used}

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        """Make the host's part of batch `step`.

        Raises:
            InvalidInput: a record cannot be read, or, where such records are skipped, none of its
                group can.
        """
        rows = self.order.rows(step, self.rows)
        scenes = [self._scene(group, index) for group, index in rows]
        batch = {name: np.stack([scene[name] for scene in scenes]) for name in scenes[0]}
        if self.skip:
            wanted = [self.positions[group][index] for group, index in rows]
            batch[WANTED] = np.asarray(wanted, np.int32)
        return batch

    def _scene(self, group: int, index: int) -> dict[str, np.ndarray]:
        positions = self.positions[group]
        for offset in range(len(positions)):
            position = int(positions[(index + offset) % len(positions)])
            try:
                return self.scenes[position]
            except InvalidInput as error:
                if not self.skip:
                    raise _naming(position, error) from error
        source = self.scenes.groups[group].source
        raise InvalidInput(
            f"no scene of source {source!r} in {self.scenes.info.path} can be read; "
            "allowed: at least one of each shape"
        )


def _naming(position: int, error: InvalidInput) -> InvalidInput:
    return InvalidInput(f"scene {position}: {error}")


def why_unreadable(scenes: SplitReader, position: int) -> str:
    """Say what is wrong with a record that cannot be read; empty for one that can."""
    try:
        scenes[position]
    except InvalidInput as error:
        return str(_naming(position, error))
    return ""
