"""What the EXIF block of a photograph says of its camera, whatever is in the block.

Read are FocalLength, FocalLengthIn35mmFilm, FNumber and SubjectDistance (EXIF 2.32, tables 7 and
8), and Orientation. A value counts where it is a finite number above 0: EXIF writes 0 for an
unknown distance and the numerator 2³² − 1 for an infinite one, which count as unknown both.

The 35-mm equivalent is for the diagonal of the whole photograph (CIPA DCG-001), 43.27 mm on film.
A frame cut out of it is b of the photograph's diagonal wide; the lens that sees as much on a frame
of 36 mm width has

    focal length = equivalent · 36 mm / (43.27 mm · b),

which is the equivalent itself for an upright photograph of 3:2 that is kept whole.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from PIL import Image

from data_pipeline.source import CameraExif

FILM_WIDTH_MM, FILM_HEIGHT_MM = 36.0, 24.0

_EXIF_IFD = 0x8769
_ORIENTATION = 0x0112
_FOCAL_LENGTH = 0x920A
_FOCAL_LENGTH_35MM = 0xA405
_F_NUMBER = 0x829D
_SUBJECT_DISTANCE = 0x9206
_INFINITE = 2**32 - 1


def camera_of(image: Image.Image) -> CameraExif:
    """Return what the file says; None for each value that is missing or makes no sense.

    Args:
        image: as opened, of any format that Pillow reads EXIF of (JPEG, TIFF, PNG, WebP).
    """
    tags = _tags(image, _EXIF_IFD)
    return CameraExif(
        focal_length_mm=_number(tags, _FOCAL_LENGTH),
        focal_length_35mm_mm=_number(tags, _FOCAL_LENGTH_35MM),
        f_number=_number(tags, _F_NUMBER),
        subject_distance_m=_number(tags, _SUBJECT_DISTANCE),
    )


def orientation_of(image: Image.Image) -> int:
    """Return EXIF's orientation, 1 to 8; 1 (upright) where it is missing or makes no sense."""
    value = _number(_tags(image), _ORIENTATION)
    return int(value) if value is not None and value in range(1, 9) else 1


def camera_of_frame(camera: CameraExif, size_px: tuple[int, int], width_px: float) -> CameraExif:
    """Return the camera that sees a part of the photograph.

    Args:
        camera: of the whole photograph.
        size_px: its height and width.
        width_px: how wide the part is.
    """
    if camera.focal_length_35mm_mm is None:
        return camera
    film_mm = math.hypot(FILM_WIDTH_MM, FILM_HEIGHT_MM)
    share = width_px / math.hypot(*size_px)
    equivalent_mm = camera.focal_length_35mm_mm * FILM_WIDTH_MM / (film_mm * share)
    return dataclasses.replace(camera, focal_length_35mm_mm=equivalent_mm)


def _tags(image: Image.Image, ifd: int | None = None) -> Mapping[int, Any]:
    # The block is foreign bytes: whatever its parser raises, the photograph is still good.
    try:
        exif = image.getexif()
        return exif if ifd is None else exif.get_ifd(ifd)
    except Exception:
        return {}


def _number(tags: Mapping[int, Any], tag: int) -> float | None:
    try:
        value: Any = tags.get(tag)
        if getattr(value, "numerator", 0) == _INFINITE:
            return None
        number = float(value)
    except Exception:
        return None
    return number if math.isfinite(number) and number > 0 else None
