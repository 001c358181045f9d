import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from bokeh_jax.errors import InvalidInput
from bokeh_jax.inference.photo_file import Photo, read_photo, resize, write_photo

ORIENTATION = 0x0112


def gradient(height_px=24, width_px=32) -> np.ndarray:
    y, x = np.mgrid[0:height_px, 0:width_px]
    return np.stack([x / width_px, y / height_px, 0.5 + 0 * x], axis=-1).astype(np.float32)


@pytest.mark.parametrize(
    ("ending", "kind", "tolerance"),
    [("png", "PNG", 0.5), ("tif", "TIFF", 0.5), ("jpg", "JPEG", 6.0), ("webp", "WEBP", 10.0)],
)
def test_every_kind_is_written_as_itself_and_read_back(tmp_path, ending, kind, tolerance):
    path = tmp_path / f"photo.{ending}"
    write_photo(path, Photo(gradient()))
    with Image.open(path) as image:
        assert image.format == kind
    difference = np.abs(read_photo(path).pixels - gradient()) * 255.0
    assert difference.max() <= tolerance + 1e-3
    assert list(tmp_path.iterdir()) == [path]


def test_orientation_is_applied_and_not_written_twice(tmp_path):
    sideways = Image.fromarray(np.uint8(gradient() * 255))
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # the camera was turned: 90° clockwise to view
    exif[0x010F] = "maker"
    sideways.save(tmp_path / "in.png", exif=exif)
    photo = read_photo(tmp_path / "in.png")
    upright = np.rot90(gradient(), k=-1)
    assert photo.pixels.shape == upright.shape
    np.testing.assert_allclose(photo.pixels, upright, atol=1 / 255)
    write_photo(tmp_path / "out.png", photo)
    again = read_photo(tmp_path / "out.png")
    np.testing.assert_array_equal(again.pixels, photo.pixels)
    with Image.open(tmp_path / "out.png") as image:
        assert image.getexif()[0x010F] == "maker"


def test_an_embedded_profile_is_converted_to_srgb(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # sRGB with red and blue primaries exchanged: its conversion to sRGB exchanges the channels.
    swapped = srgb.replace(b"rXYZ", b"?XYZ").replace(b"bXYZ", b"rXYZ").replace(b"?XYZ", b"bXYZ")
    image = Image.fromarray(np.uint8(gradient() * 255))
    image.save(tmp_path / "srgb.png", icc_profile=srgb)
    image.save(tmp_path / "swapped.png", icc_profile=swapped)
    expected = read_photo(tmp_path / "srgb.png").pixels
    np.testing.assert_allclose(expected, gradient(), atol=1.5 / 255)
    exchanged = read_photo(tmp_path / "swapped.png").pixels
    np.testing.assert_allclose(exchanged, expected[..., ::-1], atol=2.5 / 255)
    image.save(tmp_path / "damaged.png", icc_profile=b"no profile")
    with pytest.raises(InvalidInput, match=r"damaged.png cannot be read"):
        read_photo(tmp_path / "damaged.png")


def test_grey_and_alpha_become_rgb(tmp_path):
    Image.fromarray(np.full((4, 5), 128, np.uint8)).save(tmp_path / "grey.png")
    np.testing.assert_allclose(read_photo(tmp_path / "grey.png").pixels, 128 / 255, atol=1e-6)


@pytest.mark.parametrize("name", ["missing.jpg", "text.jpg", "cut.png", "photo.gif"])
def test_unusable_files_are_refused_by_name(tmp_path, name):
    (tmp_path / "text.jpg").write_text("not a picture")
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(buffer, format="PNG")
    (tmp_path / "cut.png").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    Image.fromarray(noise).save(tmp_path / "photo.gif")
    with pytest.raises(InvalidInput, match=name) as caught:
        read_photo(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_failed_write_leaves_nothing(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(InvalidInput, match=r"cannot be written"):
        write_photo(blocked / "out.png", Photo(gradient()))
    with pytest.raises(InvalidInput, match=r"allowed endings"):
        write_photo(tmp_path / "out.bmp", Photo(gradient()))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_resize_keeps_means_and_shapes():
    image = np.random.default_rng(0).uniform(size=(40, 60, 3)).astype(np.float32)
    small = resize(image, 8, 12)
    assert small.shape == (8, 12, 3)
    np.testing.assert_allclose(small.mean(axis=(0, 1)), image.mean(axis=(0, 1)), atol=0.02)
    assert resize(image[..., 0], 8, 12).shape == (8, 12)
    assert resize(image, 40, 60) is image
    constant = np.full((7, 9, 3), 0.25, np.float32)
    np.testing.assert_allclose(resize(constant, 14, 18), 0.25, atol=1e-6)
