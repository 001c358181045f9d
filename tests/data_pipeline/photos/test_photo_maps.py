"""Files of disparity and depth: every format, what the numbers mean, what is refused."""

import subprocess
import sys
from pathlib import Path

import hypothesis
import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import strategies
from PIL import Image
from tiny_photos import only_scene, pair, photo, ramp, save_16_bit, write_pfm

from bokeh_jax.errors import InvalidInput
from data_pipeline.photos import read_disparity
from data_pipeline.photos.disparity import MapMeaning, disparity_of, stored
from data_pipeline.source import SkippedScene


def _write_exr(path: Path, channels: dict[str, np.ndarray]) -> None:
    openexr = pytest.importorskip("OpenEXR")
    openexr.File({"type": openexr.scanlineimage}, channels).write(str(path))


def _save_16_bit_big_endian(path: Path, values: np.ndarray) -> None:
    levels = np.round(values * 65535).astype(">u2")
    Image.frombytes("I;16B", levels.shape[::-1], levels.tobytes()).save(path)


@pytest.mark.parametrize(
    ("name", "save", "step"),
    [
        ("a.disparity.npy", np.save, 0),
        ("a.disparity.npz", lambda p, v: np.savez(p, disparity=v.astype(np.float64)), 0),
        ("a.disparity.tiff", lambda p, v: Image.fromarray(v).save(p), 0),
        ("a.disparity.pfm", write_pfm, 0),
        ("a.disparity.PFM", lambda p, v: write_pfm(p, v, order=">"), 0),
        ("a.disparity.exr", lambda p, v: _write_exr(p, {"Z": v}), 0),
        ("a.disparity.png", save_16_bit, 0.5 / 65535),
        ("a.disparity.tif", save_16_bit, 0.5 / 65535),
        ("a.disparity.tif", _save_16_bit_big_endian, 0.5 / 65535),
        ("disparity/a.npy", np.save, 0),
        (
            "disparity/a.png",
            lambda p, v: Image.fromarray(np.round(v * 255).astype(np.uint8)).save(p),
            0.5 / 255,
        ),
    ],
)
def test_every_format_gives_the_same_disparity(tmp_path, name, save, step):
    pixels = photo(tmp_path / "a.png")
    (tmp_path / "disparity").mkdir()
    (tmp_path / "disparity" / "a.txt").write_text("no map")
    save(tmp_path / name, ramp())
    scene = only_scene(tmp_path)
    np.testing.assert_array_equal(scene.image, pixels)
    assert np.abs(scene.disparity - ramp()).max() <= step * 1.001
    assert scene.disparity_range_per_m is None
    assert scene.provenance["photograph"] == "a.png"
    assert scene.provenance["disparity_from"] == "disparity"


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        ({"depth.Z": 2.0, "extra": 0.0}, 2.0),
        ({"any": 3.0}, 3.0),
        ({"R": 4.0, "G": 4.0, "B": 4.0, "A": 1.0}, 4.0),
    ],
)
def test_channels_of_openexr_files(tmp_path, channels, expected):
    path = tmp_path / "m.exr"
    _write_exr(path, {k: np.full((2, 3), v, np.float32) for k, v in channels.items()})
    np.testing.assert_array_equal(read_disparity(path, "metric"), np.full((2, 3), expected))


def test_colour_in_openexr_is_no_map(tmp_path):
    path = tmp_path / "m.exr"
    _write_exr(path, {k: np.full((2, 3), i, np.float32) for i, k in enumerate("RGB")})
    with pytest.raises(InvalidInput, match="has the channels B, G, R; allowed: one"):
        read_disparity(path)


def test_without_the_package_openexr_files_are_refused_at_once(tmp_path):
    """In a process of its own, where the package cannot be imported."""
    photo(tmp_path / "a.png")
    (tmp_path / "a.disparity.exr").write_bytes(b"")
    code = (
        "import sys; sys.modules['OpenEXR'] = None\n"
        "from data_pipeline.photos import PhotoSource\n"
        f"PhotoSource({str(tmp_path)!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "maps in OpenEXR files need the package OpenEXR, which is not installed" in done.stderr
    assert "bokeh-jax[exr]" in done.stderr


def test_metric_disparity_is_stored_relative_with_its_range(tmp_path):
    photo(tmp_path / "a.png")
    np.save(tmp_path / "a.disparity.npy", 4 * ramp() + 1)
    scene = only_scene(tmp_path, disparity_unit="metric")
    assert scene.disparity_range_per_m == (1.0, 5.0)
    np.testing.assert_allclose(scene.disparity, ramp(), atol=1e-6)


def test_the_range_is_of_the_stored_frame(tmp_path):
    """What the frame cuts off does not widen the range."""
    photo(tmp_path / "a.png", 16, 32)
    disparity = np.tile(np.linspace(0, 3.1, 32, dtype=np.float32), (16, 1))
    np.save(tmp_path / "a.disparity.npy", disparity)
    scene = only_scene(tmp_path, disparity_unit="metric")
    assert scene.disparity_range_per_m == pytest.approx((0.8, 2.3))
    assert (scene.disparity.min(), scene.disparity.max()) == (0, 1)


@hypothesis.given(
    arrays.arrays(
        np.float32, (3, 4), elements=strategies.floats(0, 1e4, width=32, allow_subnormal=False)
    ),
)
def test_a_stored_range_gives_back_the_metric_disparity(disparity):
    relative, (low, high) = stored(disparity)
    assert relative.min() == 0
    assert relative.max() <= 1
    np.testing.assert_allclose(low + (high - low) * relative, disparity, atol=1e-6 * high)


def test_depth_is_inverted_and_infinitely_far_is_zero(tmp_path):
    photo(tmp_path / "a.png")
    depth_m = np.full((16, 16), 2.0)
    depth_m[0, 0], depth_m[0, 1] = np.inf, 0.25
    np.save(tmp_path / "a.depth.npy", depth_m)
    scene = only_scene(tmp_path)
    assert scene.disparity_range_per_m == (0.0, 4.0)
    assert (scene.disparity[0, 0], scene.disparity[0, 1], scene.disparity[1, 1]) == (0, 1, 0.125)
    assert scene.provenance["disparity_from"] == "depth"


def test_depth_in_millimetres(tmp_path):
    photo(tmp_path / "a.png")
    path = tmp_path / "a.depth.png"
    Image.fromarray(np.full((16, 16), 2000, np.uint16)).save(path)
    assert only_scene(tmp_path, depth_unit_m=0.001).disparity_range_per_m == (0.5, 0.5)
    with pytest.raises(SkippedScene, match="holds uint16; allowed for depth: floats in m"):
        only_scene(tmp_path)


def test_normalized_maps(tmp_path):
    photo(tmp_path / "a.png")
    np.save(tmp_path / "a.disparity.npy", 4 * ramp() + 1)
    np.testing.assert_allclose(only_scene(tmp_path, normalize=True).disparity, ramp(), atol=1e-6)
    np.save(tmp_path / "a.disparity.npy", np.full((16, 16), 7.0))
    assert (only_scene(tmp_path, normalize=True).disparity == 0).all()


def test_the_kind_of_map_is_chosen_where_there_are_both(tmp_path):
    pair(tmp_path)
    np.save(tmp_path / "a.depth.npy", np.full((16, 16), 4.0))
    with pytest.raises(InvalidInput, match=r"a.disparity.npy, .*a.depth.npy; allowed: one"):
        only_scene(tmp_path)
    assert only_scene(tmp_path, map_kind="disparity").disparity_range_per_m is None
    assert only_scene(tmp_path, map_kind="depth").disparity_range_per_m == (0.25, 0.25)


def test_invalid_samples_take_the_nearest_valid_one(tmp_path):
    photo(tmp_path / "a.png")
    depth_m = np.full((16, 16), 1.0)
    depth_m[:, 8:] = 2.0
    depth_m[3, 2], depth_m[5, 8], depth_m[9, 15], depth_m[0, 0] = np.nan, 0, -1, np.nan
    expected = np.where(np.arange(16) < 8, 1.0, 0.0) * np.ones((16, 1))
    np.save(tmp_path / "a.depth.npy", depth_m)
    with pytest.raises(
        SkippedScene, match=r"has 4 values that are no depth \(1.6%\); allowed: none, or"
    ):
        only_scene(tmp_path)
    scene = only_scene(tmp_path, invalid="fill")
    # One lies on the border between the two, beside valid samples of both.
    on_border = scene.disparity[5, 8]
    assert on_border in (0, 1)
    expected[5, 8] = on_border
    np.testing.assert_array_equal(scene.disparity, expected)
    assert scene.disparity_range_per_m == (0.5, 1.0)
    with pytest.raises(SkippedScene, match=r"allowed: less than 0.015 of the map"):
        only_scene(tmp_path, invalid="fill", max_invalid_share=0.015)


def test_a_map_with_no_valid_sample_is_never_filled():
    meaning = MapMeaning(unit="metric", invalid="fill", max_invalid_share=1.0)
    with pytest.raises(InvalidInput, match="has 6 values not finite"):
        disparity_of(np.full((2, 3), np.inf), "m", "disparity", meaning)


@pytest.mark.parametrize("depth_m", [0.0, -0.0, -np.inf, np.nan, 1e-300])
def test_depth_that_is_none_is_refused(depth_m):
    with pytest.raises(InvalidInput, match="has 4 values that are no depth"):
        disparity_of(np.full((2, 2), depth_m), "m", "depth", MapMeaning())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((16, 16), np.nan), r"has 256 values not finite \(100.0%\); allowed: none"),
        (np.full((16, 16), np.inf), r"has 256 values not finite"),
        (np.full((16, 16), 1.5), r"goes from 1.5 to 1.5; allowed: \[0, 1\]"),
        (np.full((16, 16), -0.5), r"goes from -0.5 to -0.5; allowed: \[0, 1\]"),
        (np.zeros((16, 16, 3)), r"has shape \(16, 16, 3\); allowed: \(height, width\)"),
        (np.zeros((0, 16)), r"has shape \(0, 16\)"),
        (np.zeros((16, 16), np.int64), "holds int64; allowed: uint8, uint16 or floats"),
        (np.zeros((16, 24)), "is 24x16 px and its photograph 16x16 px upright; allowed: the same"),
    ],
)
def test_bad_maps_are_skipped(tmp_path, values, message):
    photo(tmp_path / "a.png")
    np.save(tmp_path / "a.disparity.npy", values)
    with pytest.raises(SkippedScene, match=message) as caught:
        only_scene(tmp_path)
    assert caught.value.damaged
    assert caught.value.what == "a.png"
    assert "\n" not in str(caught.value)


def test_metric_maps_must_be_floats_of_at_least_zero(tmp_path):
    path = tmp_path / "d.npy"
    np.save(path, np.full((4, 4), -0.1))
    with pytest.raises(InvalidInput, match=r"goes down to -0.1 1/m; allowed: at least 0"):
        read_disparity(path, "metric")
    np.save(path, np.zeros((4, 4), np.uint8))
    with pytest.raises(InvalidInput, match="holds uint8; allowed for metric disparity: floats"):
        read_disparity(path, "metric")


@pytest.mark.parametrize("suffix", ["npy", "npz", "png", "tif", "pfm", "exr"])
def test_damaged_maps_are_refused_in_one_line(tmp_path, suffix):
    path = tmp_path / f"m.{suffix}"
    for content in (b"", b"nothing\n\n", b"Pf\n4 4\n-1\n" + bytes(60)):
        path.write_bytes(content)
        with pytest.raises(InvalidInput, match=r"map .*; allowed: ") as caught:
            read_disparity(path)
        assert "\n" not in str(caught.value)
        assert " at 0x" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["npy", "npz", "png", "tif", "pfm", "exr"])
def test_maps_cut_short_are_refused(tmp_path, suffix):
    path, values = tmp_path / f"m.{suffix}", ramp(32, 32)
    writers = {
        "npy": np.save,
        "npz": lambda p, v: np.savez(p, v),
        "pfm": write_pfm,
        "exr": lambda p, v: _write_exr(p, {"Z": v}),
    }
    writers.get(suffix, save_16_bit)(path, values)
    assert read_disparity(path).shape == (32, 32)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InvalidInput, match="allowed: "):
        read_disparity(path)


def test_files_that_are_no_maps_are_refused(tmp_path):
    with pytest.raises(InvalidInput, match=r"file .*gone.png cannot be read"):
        read_disparity(tmp_path / "gone.png")
    np.savez(tmp_path / "two.npz", a=ramp(), b=ramp())
    with pytest.raises(InvalidInput, match="holds 2 arrays; allowed: 1"):
        read_disparity(tmp_path / "two.npz")
    photo(tmp_path / "colour.png")
    with pytest.raises(InvalidInput, match="has mode RGB; allowed: one channel"):
        read_disparity(tmp_path / "colour.png")
    write_pfm(tmp_path / "colour.pfm", ramp(), kind="PF")
    with pytest.raises(InvalidInput, match="begins with b'PF'; allowed: b'Pf'"):
        read_disparity(tmp_path / "colour.pfm")
    (tmp_path / "m.jpg").write_bytes(b"")
    with pytest.raises(InvalidInput, match="ends in 'jpg'; allowed: png tif"):
        read_disparity(tmp_path / "m.jpg")
