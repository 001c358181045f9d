"""A photograph and its map, upright, in sRGB, and cut to the stored frame.

Orientation from EXIF is applied, an embedded ICC profile is converted to sRGB; without one the
values are taken as sRGB. A map is taken to lie as the photograph is seen, upright.

The photograph is brought to the frame by antialiased (Lanczos) resizing, a map by the nearest
sample, because the mean over an outline is the disparity of nothing in the scene. Frame pixel i of
n then reads, in a map whose kept part begins at b and is s samples long, sample

    floor(b + (i + 1/2) s / n).

A large JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that is still `MIN_REDUCTION` times the
frame; the last resizing then averages over what differs.
"""

import dataclasses
import io
import math

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image, ImageCms

from bokeh_jax.errors import InvalidInput
from data_pipeline.frames import FrameSizes, cover_box
from data_pipeline.photos.exif import camera_of, camera_of_frame, orientation_of
from data_pipeline.photos.maps import one_line
from data_pipeline.source import CameraExif

# Relative difference of width/height up to which a photograph and a map have the same proportions:
# networks round their output to multiples of 14 or 32 pixels.
MAX_ASPECT_DIFFERENCE = 0.02
MIN_REDUCTION = 2

# What turns a stored photograph upright, by EXIF orientation.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclasses.dataclass(frozen=True, eq=False)
class OpenedPhoto:
    """A decoded photograph.

    Attributes:
        image: RGB, as it lies in the file, of the photograph's size or, for a JPEG, reduced.
        orientation: EXIF's, 1 where it lies upright.
        icc_profile: of its values; None for sRGB.
        size_px: height and width of the photograph, upright.
        frame: height and width it is to be stored in.
        camera: of the frame.
    """

    image: Image.Image
    orientation: int
    icc_profile: bytes | None
    size_px: tuple[int, int]
    frame: tuple[int, int]
    camera: CameraExif


def open_photo(data: bytes, name: str, frames: FrameSizes, side_px: int = 1) -> OpenedPhoto:
    """Decode a photograph.

    Args:
        data: the file.
        name: of the file, for errors.
        frames: the shapes it may be stored in.
        side_px: the longer side that is needed whatever the frame.

    Raises:
        InvalidInput: it is damaged or of a kind that is no photograph.
    """
    try:
        with Image.open(io.BytesIO(data)) as file:
            return _opened(file, frames, side_px)
    except InvalidInput as error:
        raise InvalidInput(f"photograph {name} {error}") from None
    # Decoders raise nearly anything on damaged files; each means that this file is at fault.
    except Exception as error:
        raise InvalidInput(
            f"photograph {name} cannot be read ({one_line(error)}); allowed: a whole image file"
        ) from error


def framed_photo(photo: OpenedPhoto) -> UInt8[np.ndarray, "h w 3"]:
    """Return the middle of a photograph in the shape of its frame, upright, sRGB-encoded."""
    return _resized(photo, photo.frame)


def whole_photo(photo: OpenedPhoto, side_px: int) -> UInt8[np.ndarray, "h w 3"]:
    """Return all of a photograph, upright, sRGB-encoded, the longer side at most `side_px`."""
    scale = min(1.0, side_px / max(photo.size_px))
    height, width = (max(1, round(side * scale)) for side in photo.size_px)
    return _resized(photo, (height, width))


def framed_map(
    values: Shaped[np.ndarray, "_ _"], name: str, photo: OpenedPhoto
) -> Shaped[np.ndarray, "h w"]:
    """Return a map's nearest samples in the photograph's frame.

    Args:
        values: disparity, a mask, or anything else of one value a sample.
        name: of the map's file, for errors.
        photo: that it belongs to.

    Raises:
        InvalidInput: the map's proportions differ from the photograph's.
    """
    height, width = values.shape
    ratio = (photo.size_px[1] / photo.size_px[0]) / (width / height)
    if abs(ratio - 1) > MAX_ASPECT_DIFFERENCE:
        raise InvalidInput(
            f"map {name} is {width}x{height} px and its photograph {photo.size_px[1]}x"
            f"{photo.size_px[0]} px upright; allowed: the same proportions"
        )
    left, top, right, bottom = cover_box(height, width, photo.frame)
    rows = _samples(top, bottom, photo.frame[0], height)
    columns = _samples(left, right, photo.frame[1], width)
    return values[np.ix_(rows, columns)]


def read_mask(data: bytes, name: str) -> UInt8[np.ndarray, "_ _"]:
    """Decode a mask: 255 inside.

    Raises:
        InvalidInput: it is damaged, or not of 8 bits.
    """
    try:
        with Image.open(io.BytesIO(data)) as file:
            mode = file.mode
            values = np.asarray(file.convert("L"))
    except Exception as error:
        raise InvalidInput(
            f"mask {name} cannot be read ({one_line(error)}); allowed: a whole PNG file"
        ) from error
    if mode not in ("1", "L", "P", "RGB", "LA", "RGBA"):
        raise InvalidInput(f"mask {name} has mode {mode}; allowed: 8 bits, 255 inside")
    return values


def _opened(file: Image.Image, frames: FrameSizes, side_px: int) -> OpenedPhoto:
    camera, orientation = camera_of(file), orientation_of(file)
    turned = orientation >= 5
    width, height = reversed(file.size) if turned else file.size
    frame = frames.frame_of(height, width)
    left, _, right, _ = cover_box(height, width, frame)
    # How many decoded pixels are needed for one of the photograph's.
    need = max(MIN_REDUCTION * frame[1] / (right - left), side_px / max(height, width))
    file.draft(None, tuple(math.ceil(side * need) for side in file.size))  # pyright: ignore
    profile = file.info.get("icc_profile") if file.mode == "RGB" else None
    return OpenedPhoto(
        image=_in_rgb(file),
        orientation=orientation,
        icc_profile=profile,
        size_px=(height, width),
        frame=frame,
        camera=camera_of_frame(camera, (height, width), right - left),
    )


def _resized(photo: OpenedPhoto, shape: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """Bring the middle of a photograph that has the proportions of `shape` to that size."""
    # Resized as it is stored and turned then: the middle is the middle however it lies.
    turned = photo.orientation >= 5
    (height, width), (rows, columns) = (
        (side[1], side[0]) if turned else side for side in (photo.size_px, shape)
    )
    box = cover_box(height, width, (rows, columns))
    # A reduced JPEG's last pixels may stand for less: its scale is a whole number, its size is not.
    scale = round(width / photo.image.width), round(height / photo.image.height)
    box = (box[0] / scale[0], box[1] / scale[1], box[2] / scale[0], box[3] / scale[1])
    image = photo.image.resize((columns, rows), Image.Resampling.LANCZOS, box=box)
    if photo.orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[photo.orientation])
    return np.asarray(_in_srgb(image, photo.icc_profile))


def _in_rgb(file: Image.Image) -> Image.Image:
    if file.mode.startswith("I;16"):
        # Pillow would clip 16 bits to 8 instead of scaling them.
        values = np.asarray(file).astype(np.uint16) >> 8
        return Image.fromarray(values.astype(np.uint8)).convert("RGB")
    if file.mode in ("I", "F"):
        raise InvalidInput(f"has mode {file.mode}; allowed: 8 or 16 bits")
    return file.convert("RGB")


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile is None:
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"))
    # A damaged profile leaves a good photograph, whose values are then taken as they are.
    except (ImageCms.PyCMSError, OSError):
        return image
    return image if converted is None else converted


def _samples(begin: float, end: float, count: int, length: int) -> np.ndarray:
    positions = begin + (np.arange(count) + 0.5) * (end - begin) / count
    return np.clip(positions.astype(np.int64), 0, length - 1)
