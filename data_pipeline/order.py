"""Which scenes batch n holds: a pure function of the seed and n.

Scenes of one kind, source and shape are a group; groups of one kind and shape batch together. With
N_s scenes in source s, N_sc of them in shape c, and the source's weight w_s (its number of scenes
where none is given), a group weighs w_s N_sc / N_s and a shape the sum of its groups: every scene
of a source is drawn equally often, and sources in proportion to their weights.

One schedule (data_pipeline.turns) deals the batches out to the shapes, evenly spread. The batches
of a shape, of B rows each, make one sequence of rows: c B of them come before batch n, with c the
shape's batches before n. A second schedule deals these rows out to the shape's sources.

Row k of a group of N scenes is its scene

    π_e(k mod N),   e = k div N,

with π_e a permutation drawn from (seed, group, e); data_pipeline.permutation. Nothing is replayed:
all of this takes the same time at any n.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

from bokeh_jax.errors import InvalidInput
from data_pipeline.dataset import Group
from data_pipeline.latent_records import LatentSizes
from data_pipeline.permutation import permuted
from data_pipeline.source import Kind
from data_pipeline.text_encoder import TextShape
from data_pipeline.turns import Schedule, make_schedule


@dataclasses.dataclass(frozen=True)
class Shape:
    """One shape of batches, to be compiled once.

    Attributes:
        kind: `layered` or `photographs`.
        height_px: of the frames.
        width_px: of the frames.
        max_layers: length of the layer axis, the most layers of its sources; 0 for photographs.
        share: of all batches.
        text: sizes of the captions' embeddings; None where batches have none.
        latents: sizes of latents; None where batches have none. Height and width are in cells.
        caption_bytes: length of the captions' bytes; 0 where batches have none.
        taken: photographs come with the view through a camera's lens, and that camera.
    """

    kind: Kind
    height_px: int
    width_px: int
    max_layers: int
    share: float
    text: TextShape | None = None
    latents: LatentSizes | None = None
    caption_bytes: int = 0
    taken: bool = False

    def __str__(self) -> str:
        layers = f", {self.max_layers} layers" if self.max_layers else ""
        unit = "px" if self.latents is None else "cells"
        return f"{self.kind} {self.height_px}x{self.width_px} {unit}{layers}"


@dataclasses.dataclass(frozen=True)
class GroupPosition:
    """How far a group's scenes are drawn: `within` of `group.num_scenes` of epoch `epoch`."""

    group: Group
    epoch: int
    within: int


@dataclasses.dataclass(frozen=True)
class Position:
    """Where a batch begins.

    Attributes:
        shape: of the batch.
        epoch: how many times as many rows as the shape has scenes were drawn before.
        within: rows drawn since.
        groups: the same for every source of the shape: each draws all its scenes before any again.
    """

    shape: Shape
    epoch: int
    within: int
    groups: tuple[GroupPosition, ...]

    def __str__(self) -> str:
        parts = (
            f"{at.group.source} epoch {at.epoch}, scene {at.within} of {at.group.num_scenes}"
            for at in self.groups
        )
        return f"{self.shape}: {'; '.join(parts)}"


@dataclasses.dataclass(frozen=True, eq=False)
class Order:
    """The rows of every batch; picklable.

    Attributes:
        shapes: of all batches.
        groups: numbers of each shape's groups, by shape.
        all_groups: the split's groups, by number.
        shape_turns: deals batches out to shapes.
        source_turns: by shape, deals its rows out to its groups.
        batch_size: rows of a global batch.
        seed: of the permutations; None keeps the stored order.
    """

    shapes: tuple[Shape, ...]
    groups: tuple[tuple[int, ...], ...]
    all_groups: tuple[Group, ...]
    shape_turns: Schedule
    source_turns: tuple[Schedule, ...]
    batch_size: int
    seed: int | None

    def shape_at(self, step: int) -> int:
        """Number of the shape that batch `step` has."""
        return self.shape_turns.item(step)

    def rows(self, step: int, rows: Sequence[int]) -> list[tuple[int, int]]:
        """Some rows of batch `step`, each from 0 to its size − 1.

        Returns:
            (number of the group, the scene's index in the group) of every row.
        """
        shape = self.shape_at(step)
        start = self._rows_before(step, shape)
        return [self._row(shape, start + row) for row in rows]

    def position_at(self, step: int) -> Position:
        """Where batch `step` begins, exactly, at any step."""
        shape = self.shape_at(step)
        before = self._rows_before(step, shape)
        groups = [self.all_groups[number] for number in self.groups[shape]]
        turns = [self.source_turns[shape].turns_before(before, item) for item in range(len(groups))]
        return Position(
            self.shapes[shape],
            *divmod(before, sum(group.num_scenes for group in groups)),
            tuple(
                GroupPosition(group, *divmod(drawn, group.num_scenes))
                for group, drawn in zip(groups, turns, strict=True)
            ),
        )

    def _rows_before(self, step: int, shape: int) -> int:
        return self.shape_turns.turns_before(step, shape) * self.batch_size

    def _row(self, shape: int, row: int) -> tuple[int, int]:
        item = self.source_turns[shape].item(row)
        number = self.groups[shape][item]
        count = self.all_groups[number].num_scenes
        drawn = self.source_turns[shape].turns_before(row, item)
        if self.seed is None:
            return number, drawn % count
        return number, permuted(drawn, count, (self.seed, number))


def make_order(
    groups: Sequence[Group],
    batch_size: int,
    seed: int | None,
    weights: Mapping[str, float] | None = None,
) -> Order:
    """Plan all batches of a split.

    Args:
        groups: of the split.
        batch_size: rows of a global batch.
        seed: of the permutations, 0 to 2³² − 1; None keeps the stored order.
        weights: of sources by name; a source with weight 0, or without, is left out. When None,
            each source weighs as many as it has scenes.

    Raises:
        InvalidInput: a weight that is no number from 0 on, or for a source that is not there; no
            weight above 0; too many shapes.
    """
    scenes = {
        source: sum(group.num_scenes for group in groups if group.source == source)
        for source in sorted({group.source for group in groups})
    }
    source_weights = _source_weights(scenes, weights)
    by_shape: dict[tuple[Kind, int, int], list[int]] = {}
    for number, group in enumerate(groups):
        if group.num_scenes and source_weights[group.source]:
            key = (group.kind, group.height_px, group.width_px)
            by_shape.setdefault(key, []).append(number)
    by_shape = dict(sorted(by_shape.items()))

    def weight(number: int) -> Fraction:
        group = groups[number]
        return source_weights[group.source] * group.num_scenes / scenes[group.source]

    shape_turns = make_schedule(
        [sum(map(weight, numbers), start=Fraction(0)) for numbers in by_shape.values()]
    )
    shapes = []
    for (kind, height_px, width_px), slots in zip(by_shape, shape_turns.slots, strict=True):
        numbers = by_shape[kind, height_px, width_px]
        most_layers = max(groups[number].max_layers for number in numbers)
        share = len(slots) / len(shape_turns.items)
        shapes.append(Shape(kind, height_px, width_px, most_layers, share))
    return Order(
        shapes=tuple(shapes),
        groups=tuple(tuple(numbers) for numbers in by_shape.values()),
        all_groups=tuple(groups),
        shape_turns=shape_turns,
        source_turns=tuple(
            make_schedule([weight(number) for number in numbers]) for numbers in by_shape.values()
        ),
        batch_size=batch_size,
        seed=seed,
    )


def _source_weights(
    scenes: Mapping[str, int], weights: Mapping[str, float] | None
) -> dict[str, Fraction]:
    if weights is None:
        return {source: Fraction(count) for source, count in scenes.items()}
    for source, weight in weights.items():
        if source not in scenes:
            raise InvalidInput(
                f"weights names source {source!r}; allowed in this split: {', '.join(scenes)}"
            )
        if not (math.isfinite(weight) and weight >= 0):
            raise InvalidInput(f"weight of source {source!r} is {weight}; allowed: 0 or more")
    if not any(weights.values()):
        raise InvalidInput("weights are all 0; allowed: at least one above 0")
    # A decimal such as 0.1 means one tenth, not the nearest binary fraction.
    return {source: Fraction(str(weights.get(source, 0))) for source in scenes}
