"""Pictures of real data as the metrics want them: sRGB-encoded float32, and where one is sharp.

JPEG, WebP and 8 bits as `inference.photo_file` reads them (EXIF orientation and ICC profile
applied). PNG and TIFF of 16 bits keep them. OpenEXR holds linear light, which is clipped at white
and encoded.

Sharpness of a window is the mean squared Laplacian of luminance, y = mean of encoded channels,

    E(window) = mean (∇² y)²,

over squares a tenth of the longer side. The *sharpest point* of a picture among others of the same
view lies in the window in which E exceeds the largest E of the others by the most (with no others,
in that of the largest E), at the centre of mass of (∇² y)². It says where a photograph is focused
when its set does not.
Laplacian energy as focus measure: Nayar & Nakagawa, "Shape from focus", PAMI 1994.
"""

import importlib
import io
from collections.abc import Sequence
from pathlib import Path

import cv2
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from bokeh_jax.errors import InvalidInput
from bokeh_jax.evaluation.questions import Point
from bokeh_jax.inference.photo_file import KINDS, read_photo, resize
from bokeh_jax.optics import linear_to_srgb
from data_pipeline.image_codecs import decode_png
from data_pipeline.photos.maps import check_map_libraries, decode_map

IMAGE_SUFFIXES = (*KINDS, ".exr")
MAP_SUFFIXES = (".png", ".tif", ".tiff", ".exr", ".pfm", ".npy", ".npz", ".jpg", ".jpeg")
# Side of a window over the longer side of the picture.
_WINDOW = 0.1


def read_picture(path: Path) -> Float32[np.ndarray, "h w 3"]:
    """Reads a photograph.

    Args:
        path: JPEG, PNG, TIFF, WebP or OpenEXR.

    Returns:
        sRGB-encoded, [0, 1].

    Raises:
        InvalidInput: missing, unreadable, or of another kind.
    """
    if not path.is_file():
        raise InvalidInput(f"image file {path} not found; allowed: {' '.join(IMAGE_SUFFIXES)}")
    suffix = path.suffix.lower()
    if suffix == ".exr":
        pixels = _read_exr(path)
    elif suffix in (".png", ".tif", ".tiff") and _has_16_bits(path):
        pixels = decode_png(path.read_bytes())[..., :3].astype(np.float32) / np.float32(65535)
    else:
        pixels = read_photo(path).pixels
    return np.clip(np.asarray(pixels, np.float32), 0.0, 1.0)


def read_disparity(
    path: Path, *, is_depth: bool
) -> tuple[Float32[np.ndarray, "h w"], tuple[float, float]]:
    """Reads a map as relative disparity.

    Args:
        path: of one value a pixel; 8 or 16 bits: v / 255 or / 65535; floats as they are.
        is_depth: its values are depth, and disparity is 1 / depth.

    Returns:
        Relative disparity, [0, 1], and the two values of disparity that 0 and 1 stand for:
        (0, 1) for a map of disparity in [0, 1], else its smallest and largest.

    Raises:
        InvalidInput: missing, unreadable, not positive where it is depth, or of one value only.
    """
    if not path.is_file():
        raise InvalidInput(f"disparity map {path} not found; allowed: {' '.join(MAP_SUFFIXES)}")
    raw = _map_values(path)
    scale = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}.get(raw.dtype, 1.0)
    values = raw.astype(np.float32) / np.float32(scale)
    if is_depth:
        if not (values > 0).all():
            raise InvalidInput(f"depth map {path} has values of 0 or less; allowed: above 0")
        # Half floats say infinity as 65504, which is near enough to it.
        values = np.float32(1.0) / values
    if not np.isfinite(values).all():
        raise InvalidInput(f"disparity map {path} has values that are not finite; allowed: finite")
    low, high = float(values.min()), float(values.max())
    if not is_depth and low >= 0.0 and high <= 1.0:
        return values, (0.0, 1.0)
    if high <= low:
        raise InvalidInput(f"disparity map {path} is {low:g} everywhere; allowed: several values")
    return (values - np.float32(low)) / np.float32(high - low), (low, high)


def shrunk(
    picture: Float32[np.ndarray, "h w 3"], max_side_px: int | None
) -> Float32[np.ndarray, "h2 w2 3"]:
    """A photograph whose longer side is at most this long, antialiased."""
    height_px, width_px = picture.shape[:2]
    if max_side_px is None or max(height_px, width_px) <= max_side_px:
        return picture
    scale = max_side_px / max(height_px, width_px)
    small = resize(picture, max(1, round(height_px * scale)), max(1, round(width_px * scale)))
    return small.clip(0.0, 1.0)


def nearest_samples(
    values: Float32[np.ndarray, "h w"], frame: tuple[int, ...]
) -> Float32[np.ndarray, "h2 w2"]:
    """A map in another frame; a mean over an outline would be the disparity of nothing."""
    rows, columns = (
        ((np.arange(wanted) + 0.5) * length / wanted).astype(int)
        for wanted, length in zip(frame, values.shape, strict=True)
    )
    return values[rows][:, columns]


def sharpest_point(
    picture: Float32[np.ndarray, "h w 3"], others: Sequence[Float32[np.ndarray, "h w 3"]] = ()
) -> Point:
    """Where a picture is sharper than others of the same view; see the module."""
    height_px, width_px = picture.shape[:2]
    half_px = max(1, round(_WINDOW * max(height_px, width_px) / 2))
    half_px = min(half_px, (min(height_px, width_px) - 1) // 2)
    detail = _detail(picture)
    margin = _window_means(detail, half_px)
    if others:
        margin = margin - np.max([_window_means(_detail(o), half_px) for o in others], axis=0)
    row, column = np.unravel_index(int(np.argmax(margin)), margin.shape)
    window = detail[row : row + 2 * half_px + 1, column : column + 2 * half_px + 1]
    # A trace keeps a window without any detail from having no centre.
    weights = window + np.float32(1e-12)
    rows, columns = (np.arange(length) + 0.5 for length in window.shape)
    y = row + (weights.sum(axis=1) * rows).sum() / weights.sum()
    x = column + (weights.sum(axis=0) * columns).sum() / weights.sum()
    return float(x / width_px), float(y / height_px)


def _detail(picture: Float32[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w"]:
    return cv2.Laplacian(picture.mean(axis=-1, dtype=np.float32), cv2.CV_32F) ** 2


def _window_means(
    values: Float32[np.ndarray, "h w"], half_px: int
) -> Float32[np.ndarray, "rows columns"]:
    """Means over the windows that lie wholly in the frame; the first is that of its corner."""
    side = 2 * half_px + 1
    means = cv2.blur(values, (side, side))
    return means[half_px : values.shape[0] - half_px, half_px : values.shape[1] - half_px]


def _has_16_bits(path: Path) -> bool:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return image is not None and image.dtype == np.uint16 and image.ndim == 3


def _map_values(path: Path) -> np.ndarray:
    """What a map's file holds."""
    suffix, data = path.suffix.lower(), path.read_bytes()
    if suffix not in MAP_SUFFIXES:
        raise InvalidInput(f"disparity map {path}; allowed: {' '.join(MAP_SUFFIXES)}")
    if suffix not in (".jpg", ".jpeg"):
        return decode_map(data, suffix[1:], str(path))
    # Some sets ship maps as JPEG, grey in three channels.
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE) if data else None
    if values is None:
        raise InvalidInput(f"disparity map {path} cannot be read; allowed: a whole JPEG file")
    return values


def _read_exr(path: Path) -> Float32[np.ndarray, "h w 3"]:
    check_map_libraries({"exr"})
    try:
        with importlib.import_module("OpenEXR").File(
            io.BytesIO(path.read_bytes()), separate_channels=True
        ) as file:
            channels = {name.rpartition(".")[2]: c.pixels for name, c in file.channels().items()}
            light = np.stack([np.asarray(channels[name], np.float32) for name in "RGB"], axis=-1)
    except (KeyError, OSError, RuntimeError, ValueError) as error:
        raise InvalidInput(
            f"image file {path} cannot be read ({error}); allowed: OpenEXR with R, G and B"
        ) from None
    return np.asarray(linear_to_srgb(jnp.asarray(np.clip(light, 0.0, 1.0))))
