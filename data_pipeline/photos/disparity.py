"""What the numbers of a map mean, and how they are stored.

A map holds one of

- relative disparity, nearer is larger: 8 and 16 bits as value / 255 and value / 65535, floats in
  [0, 1]; floats of no scale, as monocular networks give, with `normalize`, which takes each map's
  own minimum and maximum to 0 and 1;
- metric disparity: floats in 1/m, at least 0;
- depth: floats in m along the optical axis, above 0, or whole numbers with `depth_unit_m`. Then

      disparity_per_m = 1 / depth_m,     0 at infinite depth.

A sample is invalid where it is not finite, but for infinite depth, and where depth is 0 or less.
A map with invalid samples is refused; or each takes the value of the nearest valid sample, as long
as they are less than a stated share of the map.

Relative disparity is stored as it is. Metric disparity is stored relative to its own range,

    relative = (disparity_per_m − low) / (high − low),      low, high its minimum and maximum,

with (low, high) beside it, so that nothing is lost but digits.
"""

import dataclasses
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, Shaped

from bokeh_jax.errors import InvalidInput
from data_pipeline.photos.files import DisparityUnit, MapKind, Part
from data_pipeline.photos.maps import decode_map

Invalid = Literal["refuse", "fill"]


@dataclasses.dataclass(frozen=True)
class MapMeaning:
    """What the maps of a source hold.

    Attributes:
        unit: of disparity maps: `relative`, or `metric` (1/m).
        normalize: rescale float maps of relative disparity to [0, 1], each by its own range.
        depth_unit_m: metres that 1 in a depth map stands for, such as 0.001 for millimetres; None
            for float maps in metres.
        invalid: `refuse` maps with invalid samples, or `fill` them.
        max_invalid_share: share of a map from which it is refused all the same.
    """

    unit: DisparityUnit = "relative"
    normalize: bool = False
    depth_unit_m: float | None = None
    invalid: Invalid = "refuse"
    max_invalid_share: float = 0.1

    def __post_init__(self):
        if self.unit not in ("relative", "metric"):
            raise InvalidInput(f"disparity_unit is {self.unit!r}; allowed: relative, metric")
        if self.normalize and self.unit == "metric":
            raise InvalidInput("normalize is True; allowed with metric disparity: False")
        if self.depth_unit_m is not None and not 0 < self.depth_unit_m < float("inf"):
            raise InvalidInput(f"depth_unit_m is {self.depth_unit_m}; allowed: above 0, in metres")
        if self.invalid not in ("refuse", "fill"):
            raise InvalidInput(f"invalid is {self.invalid!r}; allowed: refuse, fill")
        if not 0 < self.max_invalid_share <= 1:
            raise InvalidInput(
                f"max_invalid_share is {self.max_invalid_share}; allowed: above 0 to 1"
            )


def read_disparity(
    path: Path, unit: DisparityUnit = "relative", normalize: bool = False
) -> Float32[np.ndarray, "_ _"]:
    """Read a file of disparity in its own resolution.

    Args:
        path: the file; `maps` has the formats.
        unit: what it holds, and what is returned.
        normalize: rescale a float map to [0, 1].

    Returns:
        float32 [h, w], nearer is larger, in [0, 1] or 1/m.

    Raises:
        InvalidInput: the file is missing, damaged, no map, or has values that are not finite or out
            of range.
    """
    part = Part(Path(path))
    raw = decode_map(part.read(), part.suffix, str(part))
    return disparity_of(raw, str(part), "disparity", MapMeaning(unit=unit, normalize=normalize))


def disparity_of(
    raw: Shaped[np.ndarray, "h w"], name: str, kind: MapKind, meaning: MapMeaning
) -> Float32[np.ndarray, "h w"]:
    """Return a map's disparity: of depth and of metric disparity in 1/m, else relative.

    Args:
        raw: uint8, uint16 or floats, as decoded.
        name: of the file, for errors.
        kind: which of the two the map is.
        meaning: what its numbers are.

    Raises:
        InvalidInput: values that are out of range, or too many invalid ones.
    """
    if kind == "depth":
        return _of_depth(raw, name, meaning)
    if raw.dtype.kind == "u":
        if meaning.unit == "metric":
            raise InvalidInput(
                f"map {name} holds {raw.dtype}; allowed for metric disparity: floats, 1/m"
            )
        return (raw / np.float32(np.iinfo(raw.dtype).max)).astype(np.float32)
    known = np.isfinite(raw)
    values = _filled(raw.astype(np.float64), known, name, "not finite", meaning)
    return _checked(values, name, meaning).astype(np.float32)


def stored(
    disparity: Float32[np.ndarray, "h w"],
) -> tuple[Float32[np.ndarray, "h w"], tuple[float, float]]:
    """Return metric disparity (1/m) relative to its range, and the range.

    A map of one value is 0 everywhere, with that value at both ends of the range.
    """
    low, high = float(disparity.min()), float(disparity.max())
    span = max(high - low, np.finfo(np.float32).tiny)
    relative = (disparity.astype(np.float64) - low) / span
    return np.clip(relative, 0, 1).astype(np.float32), (low, high)


def _of_depth(
    raw: Shaped[np.ndarray, "h w"], name: str, meaning: MapMeaning
) -> Float32[np.ndarray, "h w"]:
    if raw.dtype.kind == "u" and meaning.depth_unit_m is None:
        raise InvalidInput(
            f"map {name} holds {raw.dtype}; allowed for depth: floats in m, "
            "or depth_unit_m (0.001 for millimetres)"
        )
    depth_m = raw.astype(np.float64) * (meaning.depth_unit_m or 1.0)
    # False for NaN. The tiny number is 0 but for division: one over it is still a float.
    known = depth_m > np.finfo(np.float32).tiny
    disparity = np.divide(1.0, depth_m, out=np.zeros_like(depth_m), where=known)
    return _filled(disparity, known, name, "that are no depth", meaning).astype(np.float32)


def _filled(
    values: Float64[np.ndarray, "h w"],
    known: Bool[np.ndarray, "h w"],
    name: str,
    fault: str,
    meaning: MapMeaning,
) -> Float64[np.ndarray, "h w"]:
    """Give every sample that is not known the value of the nearest that is."""
    num_invalid = int(known.size - known.sum())
    if num_invalid == 0:
        return values
    share = num_invalid / known.size
    limit = meaning.max_invalid_share if meaning.invalid == "fill" else 0.0
    if share >= limit:
        allowed = f"less than {limit:g} of the map" if limit else "none, or invalid='fill'"
        raise InvalidInput(
            f"map {name} has {num_invalid} values {fault} ({share:.1%}); allowed: {allowed}"
        )
    # Each valid sample is a label; every other sample gets the label of the nearest.
    _, found = cv2.distanceTransformWithLabels(
        (~known).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    labels = np.asarray(found, np.int64)
    of_label = np.zeros(int(labels.max()) + 1)
    of_label[labels[known]] = values[known]
    return of_label[labels]


def _checked(
    values: Float64[np.ndarray, "h w"], name: str, meaning: MapMeaning
) -> Float64[np.ndarray, "h w"]:
    low, high = float(values.min()), float(values.max())
    if meaning.normalize:
        return (values - low) / max(high - low, np.finfo(np.float64).tiny)
    if meaning.unit == "metric" and low < 0:
        raise InvalidInput(f"map {name} goes down to {low:g} 1/m; allowed: at least 0")
    if meaning.unit == "relative" and (low < 0 or high > 1):
        raise InvalidInput(
            f"map {name} goes from {low:g} to {high:g}; allowed: [0, 1] "
            "(normalize=True rescales maps of no scale)"
        )
    return values
