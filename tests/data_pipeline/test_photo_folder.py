"""A folder of photographs with disparity maps as a source."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bokeh_jax.errors import InvalidInput
from data_pipeline.photo_folder import PhotoFolderSource, read_disparity

SIZE_PX = 16


def _photo(path: Path, height: int = 16, width: int = 16, seed: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def _ramp(height: int = 16, width: int = 16) -> np.ndarray:
    return np.linspace(0, 1, height * width, dtype=np.float32).reshape(height, width)


def _only_scene(folder: Path, **fields) -> dict:
    source = PhotoFolderSource(folder, size_px=SIZE_PX, heldout_fraction=0.0, **fields)
    assert source.num_scenes("train") == 1
    return dict(source.scene("train", 0))


def _save_16_bit(path: Path, values: np.ndarray) -> None:
    Image.fromarray(np.round(values * 65535).astype(np.uint16)).save(path)


@pytest.mark.parametrize(
    ("name", "save", "step"),
    [
        ("a.disparity.npy", np.save, 0),
        ("a.disparity.npz", lambda p, v: np.savez(p, disparity=v.astype(np.float64)), 0),
        ("a.disparity.tiff", lambda p, v: Image.fromarray(v).save(p), 0),
        ("a.disparity.png", _save_16_bit, 1 / 65535),
        ("a.disparity.tif", _save_16_bit, 1 / 65535),
        (
            "disparity/a.png",
            lambda p, v: Image.fromarray((v * 255).astype(np.uint8)).save(p),
            0.004,
        ),
    ],
)
def test_every_format_gives_the_same_disparity(tmp_path, name, save, step):
    pixels = _photo(tmp_path / "a.png")
    (tmp_path / "disparity").mkdir()
    save(tmp_path / name, _ramp())
    scene = _only_scene(tmp_path)
    np.testing.assert_array_equal(scene["image"], pixels)
    assert scene["disparity"].dtype == np.float32
    assert np.abs(scene["disparity"] - _ramp()).max() <= step
    assert json.loads(scene["provenance"]) == {"photograph": "a.png"}


def test_wide_photograph_and_smaller_map_are_cut_to_the_same_square(tmp_path):
    """A vertical edge at the same place of both stays at the same place of both."""
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[:, 80:] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    disparity = np.zeros((32, 64), np.float32)
    disparity[:, 40:] = 1
    np.save(tmp_path / "a.disparity.npy", disparity)
    scene = _only_scene(tmp_path)
    # The square is columns 32 to 96 of the photograph, so the edge is 3/4 along.
    expected = np.zeros((SIZE_PX, SIZE_PX), np.float32)
    expected[:, 12:] = 1
    np.testing.assert_array_equal(scene["disparity"], expected)
    assert (np.abs(scene["image"][..., 0] / 255 - expected) < 0.1).all()


def test_maps_are_not_blended_across_an_outline(tmp_path):
    _photo(tmp_path / "a.png", 100, 100)
    disparity = np.random.default_rng(0).choice(np.array([0.1, 0.9], np.float32), (100, 100))
    np.save(tmp_path / "a.disparity.npy", disparity)
    assert set(np.unique(_only_scene(tmp_path)["disparity"])) == {np.float32(0.1), np.float32(0.9)}


def test_turned_photograph_follows_its_orientation_tag(tmp_path):
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # Stored turned: upright is a quarter turn clockwise of it.
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    np.save(tmp_path / "a.disparity.npy", _ramp())
    image = _only_scene(tmp_path)["image"]
    np.testing.assert_array_equal(image, np.rot90(pixels, -1))


def test_metric_and_normalized_maps(tmp_path):
    _photo(tmp_path / "a.png")
    np.save(tmp_path / "a.disparity.npy", 4 * _ramp() + 1)
    metric = _only_scene(tmp_path, disparity_unit="metric")["disparity"]
    np.testing.assert_array_equal(metric, 4 * _ramp() + 1)
    normalized = _only_scene(tmp_path, normalize=True)["disparity"]
    np.testing.assert_allclose(normalized, _ramp(), atol=1e-6)
    np.save(tmp_path / "a.disparity.npy", np.full((16, 16), 7.0))
    assert (_only_scene(tmp_path, normalize=True)["disparity"] == 0).all()


def test_splits_share_no_photograph_and_keep_all(tmp_path):
    for index in range(20):
        _photo(tmp_path / f"{index:02}.png", seed=index)
        np.save(tmp_path / f"{index:02}.disparity.npy", _ramp())

    def names(seed: int, fraction: float = 0.21) -> dict[str, set[str]]:
        source = PhotoFolderSource(tmp_path, SIZE_PX, seed=seed, heldout_fraction=fraction)
        scenes = {
            split: [source.scene(split, i) for i in range(source.num_scenes(split) or 0)]
            for split in ("train", "eval_seen", "eval_heldout")
        }
        return {
            split: {json.loads(scene["provenance"])["photograph"] for scene in group}
            for split, group in scenes.items()
        }

    split = names(0)
    assert [len(split[name]) for name in ("train", "eval_seen", "eval_heldout")] == [15, 0, 5]
    assert not split["train"] & split["eval_heldout"]
    assert names(0) == split
    assert names(1) != split
    # One photograph more leaves nearly every other where it was.
    _photo(tmp_path / "20.png")
    np.save(tmp_path / "20.disparity.npy", _ramp())
    assert len(split["eval_heldout"] - names(0)["eval_heldout"]) <= 1
    assert len(names(0, 0.0)["eval_heldout"]) == 0
    assert len(names(0, 0.01)["eval_heldout"]) == 1


def test_recipe_follows_the_files_content_and_the_settings(tmp_path):
    _photo(tmp_path / "a.png")
    np.save(tmp_path / "a.disparity.npy", _ramp())

    def recipe(**fields) -> str:
        return json.dumps(PhotoFolderSource(tmp_path, **fields).recipe())

    before = recipe()
    assert recipe() == before
    changed = [{"size_px": 32}, {"seed": 1}, {"heldout_fraction": 0.2}, {"normalize": True}]
    changed += [{"disparity_unit": "metric"}]
    assert len({before, *(recipe(**fields) for fields in changed)}) == 6
    np.save(tmp_path / "a.disparity.npy", _ramp()[::-1])
    with_other_map = recipe()
    _photo(tmp_path / "a.png", seed=1)
    assert len({before, with_other_map, recipe()}) == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((16, 16), np.nan), "has 256 values not finite; allowed: none"),
        (np.full((16, 16), 1.5), r"goes from 1.5 to 1.5; allowed: \[0, 1\]"),
        (np.full((16, 16), -0.5), r"goes from -0.5 to -0.5; allowed: \[0, 1\]"),
        (np.zeros((16, 16, 3)), r"has shape \(16, 16, 3\); allowed: \(height, width\)"),
        (np.zeros((0, 16)), r"has shape \(0, 16\)"),
        (np.zeros((16, 16), np.int64), "holds int64; allowed: uint8, uint16 or floats"),
        (np.zeros((16, 24)), "is 24x16 px and a.png 16x16 px; allowed: the same proportions"),
    ],
)
def test_bad_maps_are_refused(tmp_path, values, message):
    _photo(tmp_path / "a.png")
    np.save(tmp_path / "a.disparity.npy", values)
    with pytest.raises(InvalidInput, match=message):
        _only_scene(tmp_path)


def test_metric_maps_must_be_floats_of_at_least_zero(tmp_path):
    path = tmp_path / "d.npy"
    np.save(path, np.full((4, 4), -0.1))
    with pytest.raises(InvalidInput, match=r"goes down to -0.1 1/m; allowed: at least 0"):
        read_disparity(path, "metric")
    np.save(path, np.zeros((4, 4), np.uint8))
    with pytest.raises(InvalidInput, match="holds uint8; allowed for metric disparity: floats"):
        read_disparity(path, "metric")


def test_unreadable_files_are_refused(tmp_path):
    _photo(tmp_path / "a.png")
    (tmp_path / "a.disparity.npy").write_bytes(b"nothing")
    with pytest.raises(InvalidInput, match=r"cannot be read .*; allowed: a NumPy array"):
        _only_scene(tmp_path)
    np.save(tmp_path / "a.disparity.npy", _ramp())
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidInput, match=r"photograph .*a.png cannot be read"):
        _only_scene(tmp_path)
    with pytest.raises(InvalidInput, match=r"disparity map .*gone.png cannot be read"):
        read_disparity(tmp_path / "gone.png")
    np.savez(tmp_path / "two.npz", a=_ramp(), b=_ramp())
    with pytest.raises(InvalidInput, match="holds 2 arrays; allowed: 1"):
        read_disparity(tmp_path / "two.npz")
    _photo(tmp_path / "colour.png")
    with pytest.raises(InvalidInput, match="has mode RGB; allowed: one channel"):
        read_disparity(tmp_path / "colour.png")


def test_folders_without_pairs_are_refused(tmp_path):
    with pytest.raises(InvalidInput, match="is not there; allowed: a folder"):
        PhotoFolderSource(tmp_path / "none")
    with pytest.raises(InvalidInput, match="has no photographs"):
        PhotoFolderSource(tmp_path)
    _photo(tmp_path / "a.png")
    with pytest.raises(InvalidInput, match=r"disparity maps of .*a.png found: none"):
        PhotoFolderSource(tmp_path)
    np.save(tmp_path / "a.disparity.npy", _ramp())
    _save_16_bit(tmp_path / "a.disparity.png", _ramp())
    with pytest.raises(InvalidInput, match=r"found: a.disparity.png, a.disparity.npy"):
        PhotoFolderSource(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size_px": 4}, "size_px is 4; allowed: 16 to 4096"),
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"heldout_fraction": 1.0}, "heldout_fraction is 1.0; allowed: from 0 to below 1"),
        ({"normalize": True, "disparity_unit": "metric"}, "normalize is True"),
    ],
)
def test_bad_settings_are_refused(tmp_path, fields, message):
    with pytest.raises(InvalidInput, match=message):
        PhotoFolderSource(tmp_path, **fields)
