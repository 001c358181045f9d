"""EXIF of a photograph that no camera took: what lens it shows, as files of cameras say it.

Tags and types are those of the EXIF standard (CIPA DC-008): f-number, focal length, that of a
36 mm frame with the same angle of view, distance of what is in focus, and the prompt as the
picture's description.
"""

import math

from PIL import Image
from PIL.ExifTags import IFD, Base
from PIL.TiffImagePlugin import IFDRational

from bokeh_jax.inference.generator import FULL_FRAME_WIDTH_MM, Photographed

SOFTWARE = "bokeh_jax"
_INFINITE = 0xFFFF_FFFF


def exif_block(taken: Photographed, prompt: str) -> bytes:
    """The block as `photo_file.write_photo` takes it."""
    camera, exif = taken.camera, Image.Exif()
    exif[Base.ImageDescription] = prompt
    exif[Base.Software] = SOFTWARE
    equivalent_mm = camera.focal_length_mm * FULL_FRAME_WIDTH_MM / camera.sensor_width_mm
    details = exif.get_ifd(IFD.Exif)
    details[Base.FNumber] = _rational(camera.f_number)
    details[Base.FocalLength] = _rational(camera.focal_length_mm)
    details[Base.FocalLengthIn35mmFilm] = round(equivalent_mm)
    details[Base.SubjectDistance] = (
        _rational(taken.focus_distance_m)
        if math.isfinite(taken.focus_distance_m)
        else IFDRational(_INFINITE, 1)
    )
    return exif.tobytes()


def _rational(value: float) -> IFDRational:
    return IFDRational(round(1000 * value), 1000)
