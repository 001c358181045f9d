"""What a photograph says of its camera, in every format, and from broken blocks."""

import io
import math
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies
from PIL import Image
from PIL.TiffImagePlugin import IFDRational
from tiny_photos import only_scene, ramp

from data_pipeline.frames import FrameSizes
from data_pipeline.photos.exif import camera_of, camera_of_frame, orientation_of
from data_pipeline.source import CameraExif

SHARED = Path(__file__).parents[4] / "shared" / "data"

FOCAL_LENGTH, FOCAL_35, F_NUMBER, DISTANCE = 0x920A, 0xA405, 0x829D, 0x9206


def _with_exif(tags: dict, image_format: str = "JPEG", size=(16, 16)) -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "maker"
    exif.get_ifd(0x8769).update(tags)
    file = io.BytesIO()
    # As bytes: TIFF leaves the camera's part out otherwise.
    Image.new("RGB", size).save(file, image_format, exif=exif.tobytes())
    return file.getvalue()


def _camera(data: bytes) -> CameraExif:
    with Image.open(io.BytesIO(data)) as image:
        return camera_of(image)


@pytest.mark.parametrize("image_format", ["JPEG", "TIFF", "PNG", "WEBP"])
def test_all_four_values_of_every_format(image_format):
    tags = {
        FOCAL_LENGTH: IFDRational(47, 10),
        FOCAL_35: 26,
        F_NUMBER: IFDRational(18, 10),
        DISTANCE: IFDRational(125, 100),
    }
    camera = _camera(_with_exif(tags, image_format))
    assert camera == CameraExif(4.7, 26.0, 1.8, 1.25)


def test_a_photograph_without_a_block_says_nothing():
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    assert _camera(file.getvalue()) == CameraExif()
    assert _camera(_with_exif({})) == CameraExif()


@pytest.mark.parametrize(
    "value",
    [
        IFDRational(0, 0),
        IFDRational(5, 0),
        IFDRational(0, 1),
        IFDRational(2**32 - 1, 1),
        float("inf"),
        -1.0,
        "far",
        b"\x00\x01",
        (IFDRational(1, 2), IFDRational(1, 2)),
    ],
)
@pytest.mark.parametrize("tag", [FOCAL_LENGTH, F_NUMBER, DISTANCE])
def test_values_that_make_no_sense_are_unknown(tag, value):
    # A block as it is once parsed: no writer makes all of these.
    image = Image.new("RGB", (8, 8))
    image.getexif().get_ifd(0x8769).update({tag: value, FOCAL_35: 26})
    assert camera_of(image) == CameraExif(focal_length_35mm_mm=26.0)


def test_zero_denominators_in_a_file_are_unknown():
    tags = {FOCAL_LENGTH: IFDRational(5, 0), DISTANCE: IFDRational(0, 0), F_NUMBER: 2.0}
    assert _camera(_with_exif(tags)) == CameraExif(f_number=2.0)


@hypothesis.settings(max_examples=100)
@hypothesis.given(strategies.data())
def test_garbage_in_the_block_never_raises(data):
    exif = Image.Exif()
    exif[0x0112] = 3
    values = {FOCAL_LENGTH: IFDRational(47, 10), FOCAL_35: 26, F_NUMBER: 1.8, DISTANCE: 2.0}
    exif.get_ifd(0x8769).update(values)
    block = bytearray(exif.tobytes())
    for _ in range(data.draw(strategies.integers(1, 12))):
        at = data.draw(strategies.integers(6, len(block) - 1))
        block[at] = data.draw(strategies.integers(0, 255))
    image = Image.new("RGB", (8, 8))
    image.info["exif"] = bytes(block[: data.draw(strategies.integers(6, len(block)))])
    camera = camera_of(image)
    for value in (camera.focal_length_mm, camera.f_number, camera.subject_distance_m):
        assert value is None or (math.isfinite(value) and value > 0)
    assert orientation_of(image) in range(1, 9)


@pytest.mark.parametrize("value", [0, 9, 77])
def test_orientations_that_are_none_are_upright(value):
    exif = Image.Exif()
    exif[0x0112] = value
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", exif=exif)
    with Image.open(file) as image:
        assert orientation_of(image) == 1


@pytest.mark.parametrize(
    ("size_px", "width_px", "expected_mm"),
    [
        ((200, 300), 300, 50.0),  # 36 by 24, whole.
        ((200, 300), 150, 100.0),  # Half of the width.
        ((300, 200), 200, 75.0),  # Upright: the width is film's 24 mm.
        ((300, 400), 400, 50 * 36 / (math.hypot(36, 24) * 0.8)),  # 4:3, by its diagonal.
    ],
)
def test_the_equivalent_is_that_of_the_frame(size_px, width_px, expected_mm):
    camera = camera_of_frame(CameraExif(focal_length_35mm_mm=50.0), size_px, float(width_px))
    assert camera.focal_length_35mm_mm == pytest.approx(expected_mm)
    assert camera_of_frame(CameraExif(f_number=2.0), size_px, 1.0) == CameraExif(f_number=2.0)


def test_the_scene_has_the_camera_of_its_frame(tmp_path):
    """A square cut out of 3:2 sees two thirds of the width."""
    tags = {FOCAL_LENGTH: 30.0, FOCAL_35: 48, F_NUMBER: 1.8, DISTANCE: 2.0}
    (tmp_path / "a.jpg").write_bytes(_with_exif(tags, size=(48, 32)))
    np.save(tmp_path / "a.disparity.npy", ramp(32, 48))
    camera = only_scene(tmp_path).camera
    assert (camera.focal_length_mm, camera.f_number, camera.subject_distance_m) == (30, 1.8, 2)
    assert camera.focal_length_35mm_mm == pytest.approx(72)
    whole = only_scene(tmp_path, frames=FrameSizes((16,), ("3:2",))).camera
    assert whole.focal_length_35mm_mm == pytest.approx(48, rel=0.01)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the folder of shared photographs is absent")
def test_a_real_phone_photograph():
    with Image.open(SHARED / "focus_stack_pcb" / "pcb_001.jpg") as image:
        assert camera_of(image) == CameraExif(focal_length_mm=2.5, f_number=1.8)
