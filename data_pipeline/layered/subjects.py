"""What a photographer focuses on: one thing of a scene, in the middle of what is seen of it."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from bokeh_jax.errors import InvalidInput
from data_pipeline.layered.parts import Part

# A layer of which less of the frame is seen is no subject.
LEAST_SEEN = 0.01
# A point well inside: over a window of this share of the frame, almost as much of the subject is
# seen as anywhere.
WINDOW = 0.06
ALMOST = 0.9


class Habits(NamedTuple):
    """How often a photographer takes the nearest thing, the most central, and any at all.

    `any` may be the backdrop too. Weights relative to each other.
    """

    nearest: float = 0.45
    central: float = 0.35
    any: float = 0.2

    def checked(self) -> "Habits":
        """These habits.

        Raises:
            InvalidInput: a weight that is no number from 0 on, or none above 0.
        """
        if not (all(weight >= 0 for weight in self) and 0 < sum(self) < math.inf):
            raise InvalidInput(
                f"weights of nearest, central and any subjects are {', '.join(map(str, self))}; "
                "allowed: 0 or more, at least one above 0"
            )
        return self


USUAL = Habits()


class Subject(NamedTuple):
    """A layer's index and a point on it, (x, y) in whole pixels of the frame."""

    layer: int
    point_px: tuple[int, int]


def choose_subject(
    rng: np.random.Generator,
    parts: tuple[Part, ...],
    seen: Float[np.ndarray, "l h w"],
    habits: Habits = USUAL,
) -> Subject:
    """Choose what to focus on.

    Args:
        rng: all of the randomness.
        parts: the layers, nearest first, the backdrop last.
        seen: share of each pixel's light that comes from each layer.
        habits: of the photographer.
    """
    solid = [i for i, part in enumerate(parts) if part.role in ("thing", "backdrop")]
    candidates = [i for i in solid if seen[i].mean() >= LEAST_SEEN] or [len(parts) - 1]
    things = [i for i in candidates if parts[i].role == "thing"] or candidates
    rule = rng.choice(habits._fields, p=np.array(habits) / sum(habits))
    if rule == "nearest":
        layer = things[0]
    elif rule == "central":
        layer = min(things, key=lambda i: _off_center(seen[i]))
    else:
        layer = candidates[rng.integers(len(candidates))]
    return Subject(layer, _point(rng, seen[layer]))


def _off_center(share: Float[np.ndarray, "h w"]) -> float:
    """Mean squared distance of what is seen from the frame's centre, in squared frames."""
    height, width = share.shape
    y = ((np.arange(height) + 0.5) / height - 0.5) ** 2
    x = ((np.arange(width) + 0.5) / width - 0.5) ** 2
    return float((share * (y[:, None] + x[None, :])).sum() / share.sum())


def _point(rng: np.random.Generator, share: Float[np.ndarray, "h w"]) -> tuple[int, int]:
    """Draw a pixel that shows the subject, as do those around it."""
    radius = max(1, round(WINDOW * min(share.shape) / 2))
    around = _window_mean(share, radius)
    # Among the pixels that show it: the middle of a ring shows something else.
    inside = np.where(share >= ALMOST * share.max(), around, 0)
    ys, xs = np.nonzero(inside >= ALMOST * inside.max())
    drawn = int(rng.integers(len(xs)))
    return int(xs[drawn]), int(ys[drawn])


def _window_mean(values: Float[np.ndarray, "h w"], radius: int) -> Float[np.ndarray, "h w"]:
    """Mean over squares of 2 radius + 1 pixels; nothing lies beyond the frame."""
    side = 2 * radius + 1
    sums = np.pad(values, radius).cumsum(axis=0).cumsum(axis=1)
    sums = np.pad(sums, ((1, 0), (1, 0)))
    rows = sums[side:] - sums[:-side]
    return (rows[:, side:] - rows[:, :-side]) / side**2
