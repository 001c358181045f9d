"""Several sources as one: their scenes stand in the dataset one source after the other.

The candidates of a split are those of the first part, then those of the second, and so on, so
adding a part at the end renumbers nothing. Each scene keeps the name of its part, by which the
loader weights them:

    index of the mixture = candidates of the earlier parts + index of the part.
"""

import bisect
import dataclasses
import itertools
import math
import re
from collections.abc import Mapping
from typing import Any

from bokeh_jax.errors import InvalidInput
from data_pipeline.source import SPLITS, Scene, SceneSource, check_int, check_split

# Positions are int32 in a batch.
MAX_SCENES = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Part:
    """One source of a mixture.

    Attributes:
        source: makes the scenes.
        counts: candidates of every split, those that are not named 0; all that the source has when
            None, which an endless source refuses.
        name: of its scenes in the dataset; the source's own when empty.
        weight: how much of training comes from it, relative to the other parts; above 0. Where no
            part has one, scenes count alike, whatever part they are of; where some have, 1.
    """

    source: SceneSource
    counts: Mapping[str, int] | None = None
    name: str = ""
    weight: float | None = None

    def __post_init__(self):
        if not self.name:
            object.__setattr__(self, "name", self.source.name)
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", self.name):
            raise InvalidInput(
                f"name of a source is {self.name!r}; allowed: letters, digits, '_', '-' and '.'"
            )
        if self.weight is not None and not (math.isfinite(self.weight) and self.weight > 0):
            raise InvalidInput(f"weight of {self.name} is {self.weight}; allowed: above 0")
        object.__setattr__(self, "counts", checked_counts(self.source, self.counts))


@dataclasses.dataclass(frozen=True)
class MixtureSource:
    """The scenes of several sources, one source after the other; see the module's header.

    Attributes:
        parts: at least one; their names differ.
    """

    parts: tuple[Part, ...]

    def __post_init__(self):
        names = [part.name for part in self.parts]
        if not names or len(set(names)) < len(names):
            raise InvalidInput(
                f"sources of a mixture are {', '.join(names) or 'none'}; "
                "allowed: at least one, with different names"
            )

    @property
    def name(self) -> str:
        """What the mixture itself is called; its scenes have the names of their parts."""
        return "mixture"

    @property
    def weights(self) -> dict[str, float]:
        """The weight of every part, by its name; nothing where no part has one."""
        given = {part.name: part.weight for part in self.parts}
        if all(weight is None for weight in given.values()):
            return {}
        return {name: 1.0 if weight is None else weight for name, weight in given.items()}

    def recipe(self) -> dict[str, Any]:
        """Return all that decides the scenes' content, as JSON values."""
        parts = [
            {"name": part.name, "counts": dict(part.counts or {}), "recipe": part.source.recipe()}
            for part in self.parts
        ]
        return {"source": "mixture", "parts": parts}

    def num_scenes(self, split: str) -> int:
        """Return how many candidates the parts have together."""
        check_split(split)
        return self._ends(split)[-1]

    def scene(self, split: str, index: int) -> Scene:
        """Return scene `index` of `split`, from the part that it belongs to."""
        part, own = self._locate(split, index)
        return part.source.scene(split, own)

    def part_name(self, split: str, index: int) -> str:
        """Return the name of the part that a candidate belongs to."""
        return self._locate(split, index)[0].name

    def _ends(self, split: str) -> list[int]:
        return list(itertools.accumulate((part.counts or {}).get(split, 0) for part in self.parts))

    def _locate(self, split: str, index: int) -> tuple[Part, int]:
        ends = self._ends(split)
        position = bisect.bisect_right(ends, index)
        return self.parts[position], index - (ends[position - 1] if position else 0)


def checked_counts(source: SceneSource, counts: Mapping[str, int] | None) -> dict[str, int]:
    """Return how many candidates of every split to take, the splits with some in SPLITS' order.

    Raises:
        InvalidInput: an unknown split, more than the source has, or no number for an endless one.
    """
    for split in counts or {}:
        check_split(split)
    checked = {}
    for split in SPLITS:
        available = source.num_scenes(split)
        wanted = available if counts is None else counts.get(split, 0)
        if wanted is None:
            raise InvalidInput(f"counts is None; allowed for endless {source.name} scenes: numbers")
        check_int(f"counts[{split!r}]", wanted, 0, MAX_SCENES if available is None else available)
        if wanted:
            checked[split] = wanted
    return checked
