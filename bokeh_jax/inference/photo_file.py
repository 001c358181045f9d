"""Photographs on disk: read upright and in sRGB, written back as their kind, whole or not at all.

Orientation from EXIF is applied on reading. An embedded ICC profile is converted to sRGB; without
one the values are taken as sRGB. EXIF (but for the orientation, now upright) is kept on writing.
"""

import dataclasses
import io
import os
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from bokeh_jax.errors import InvalidInput

KINDS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
_SAVE_OPTIONS = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "PNG": {},
    "TIFF": {"compression": "tiff_adobe_deflate"},
    "WEBP": {"quality": 95, "method": 4},
}


@dataclasses.dataclass(frozen=True)
class Photo:
    """A photograph.

    Attributes:
        pixels: sRGB-encoded, [0, 1].
        exif: EXIF block to write back; None where there was none.
    """

    pixels: Float[np.ndarray, "h w 3"]
    exif: bytes | None = None


def kind_of(path: Path) -> str:
    """Pillow's name of the file's kind, from its ending.

    Raises:
        InvalidInput: an ending other than those of `KINDS`.
    """
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise InvalidInput(f"image file {path}; allowed endings: {', '.join(KINDS)}")
    return kind


def _to_srgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if profile is None or image.mode not in ("RGB", "L"):
        return image.convert("RGB")
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    converted = ImageCms.profileToProfile(
        image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    assert converted is not None
    return converted


def read_photo(path: str | Path) -> Photo:
    """Reads JPEG, PNG, TIFF or WebP.

    Raises:
        InvalidInput: missing, unreadable or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise InvalidInput(f"image file {path} not found; allowed: a JPEG, PNG, TIFF or WebP file")
    try:
        with Image.open(path) as opened:
            if opened.format not in _SAVE_OPTIONS:
                raise InvalidInput(
                    f"image file {path} is {opened.format}; allowed: {', '.join(_SAVE_OPTIONS)}"
                )
            upright = ImageOps.exif_transpose(opened)
            upright.load()
            exif = upright.getexif()
            pixels = np.asarray(_to_srgb(upright), np.float32) / 255.0
    except (UnidentifiedImageError, OSError, SyntaxError, ImageCms.PyCMSError) as error:
        raise InvalidInput(
            f"image file {path} cannot be read ({error}); allowed: a whole JPEG, PNG, TIFF or WebP"
        ) from None
    return Photo(pixels=pixels, exif=exif.tobytes() if len(exif) else None)


def write_photo(path: str | Path, photo: Photo) -> None:
    """Writes a photograph of the kind that the ending names: beside it first, then renamed.

    Raises:
        InvalidInput: an unknown ending, or a folder that cannot be written.
    """
    path = Path(path)
    kind = kind_of(path)
    levels = np.clip(np.rint(photo.pixels * 255.0), 0, 255).astype(np.uint8)
    options = _SAVE_OPTIONS[kind] | ({"exif": photo.exif} if photo.exif else {})
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(levels).save(temporary, format=kind, **options)
        temporary.replace(path)
    except OSError as error:
        if path.parent.is_dir():
            temporary.unlink(missing_ok=True)
        raise InvalidInput(
            f"output file {path} cannot be written ({error.strerror or error}); allowed: a folder "
            "that this user may write"
        ) from None


def resize(
    image: Float[np.ndarray, "h w *c"],
    height_px: int,
    width_px: int,
    method: Image.Resampling | None = None,
) -> Float[np.ndarray, "h2 w2 *c"]:
    """Antialiased resize by Pillow; by default Lanczos for pictures, bilinear for one channel."""
    if image.shape[:2] == (height_px, width_px):
        return image
    if method is None:
        method = Image.Resampling.LANCZOS if image.ndim == 3 else Image.Resampling.BILINEAR
    planes = image if image.ndim == 3 else image[..., None]
    resized = [
        np.asarray(Image.fromarray(plane).resize((width_px, height_px), method))
        for plane in np.moveaxis(np.ascontiguousarray(planes, np.float32), -1, 0)
    ]
    stacked = np.stack(resized, axis=-1)
    return stacked if image.ndim == 3 else stacked[..., 0]
