"""Photographs as textures: crops of them, and folders of one's own."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bokeh_jax.errors import InvalidInput
from data_pipeline.layered import LayeredSource, textures
from data_pipeline.layered.texture_folder import folder_textures
from data_pipeline.source import SkippedScene

FRAME = (32, 32)


@pytest.fixture(scope="module")
def photographs() -> textures.Textures:
    return textures.load_textures()


def _resample(photograph, center, side_px, angle, flip, frame):
    return textures._resample(photograph, textures._Crop(center, side_px, angle, flip), frame)


# Crops -------------------------------------------------------------------------------------------


def test_held_out_photographs_are_none_of_the_training_ones(photographs):
    assert {"china", "coffee", "flower"} < set(photographs.held_out)
    contents = [p.tobytes() for g in (photographs.train, photographs.held_out) for p in g.values()]
    assert len(set(contents)) == len(photographs.train) + len(photographs.held_out)
    everything = " ".join([*textures.TRAIN_FILES.values(), *textures.HELD_OUT_FILES.values()])
    assert "motorcycle" not in everything


def test_missing_texture_names_the_extra(monkeypatch):
    monkeypatch.setitem(textures.TRAIN_FILES, "absent", "skimage/data/absent.png")
    with pytest.raises(InvalidInput, match=r"'absent' is not installed .*bokeh-jax\[textures\]"):
        textures.load_textures()
    monkeypatch.setitem(textures.TRAIN_FILES, "absent", "no_such_package/data/absent.png")
    with pytest.raises(InvalidInput, match="'absent' is not installed"):
        textures.load_textures()


@pytest.mark.parametrize("side_px", [30.0, 70.0, 96.0, 130.0])  # Enlarged, direct, and halved.
@pytest.mark.parametrize(("flip", "frame"), [(-1.0, (40, 40)), (1.0, (40, 40)), (1.0, (30, 50))])
def test_crop_of_a_linear_ramp_is_the_ramp_at_the_mapped_points(side_px, flip, frame):
    center, angle = (110.3, 92.6), 0.7
    y, x = np.mgrid[:200, :220] + 0.5
    ramps = np.stack([x, y, (x + y) / 2], axis=-1)
    crop = _resample(np.round(ramps).astype(np.uint8), center, side_px, angle, flip, frame)
    v, u = np.mgrid[: frame[0], : frame[1]] + 0.5
    pixel_px = side_px / math.sqrt(frame[0] * frame[1])
    u, v = (u - frame[1] / 2) * pixel_px, (v - frame[0] / 2) * pixel_px
    source_x = center[0] + math.cos(angle) * flip * u - math.sin(angle) * v
    source_y = center[1] + math.sin(angle) * flip * u + math.cos(angle) * v
    expected = np.stack([source_x, source_y, (source_x + source_y) / 2], axis=-1)
    # Rounding of the ramps, of the halved and of the stored values: half a grey level each.
    assert np.abs(crop - expected).max() < 1.6
    assert np.abs((crop - expected).mean(axis=(0, 1))).max() < 0.6


def test_crop_averages_what_it_covers():
    checkerboard = (np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)
    photograph = np.repeat(checkerboard[..., None], 3, axis=-1)
    crop = _resample(photograph, (128.0, 128.0), 160.0, 0.3, 1.0, FRAME)
    # 25 pixels a stored pixel: sampling one of them would give 0 or 255.
    assert np.abs(crop.astype(float) - 127.5).max() < 25


def test_detailed_crops_are_preferred():
    rng = np.random.default_rng(0)
    photograph = np.full((300, 600, 3), 100, np.uint8)
    photograph[:, 300:] = rng.integers(0, 256, (300, 300, 1))
    plain = [
        textures.detail_of(
            textures._resample(photograph, textures._random_crop(rng, photograph, FRAME), FRAME)
        )
        for _ in range(100)
    ]
    assert np.mean(np.array(plain) < textures.MIN_DETAIL) > 0.3
    chosen = [textures.crop_texture(rng, photograph, FRAME) for _ in range(100)]
    flat = [int(np.ptp(crop, axis=(0, 1)).max()) < 30 for crop in chosen]
    assert np.mean(flat) < 0.03


def test_detail_is_the_mean_difference_of_neighbours():
    stripes = np.zeros((8, 8, 3), np.uint8)
    stripes[:, ::2] = 255
    assert textures.detail_of(stripes) == pytest.approx(0.5)
    assert textures.detail_of(stripes.transpose(1, 0, 2)) == pytest.approx(0.5)


def test_grey_photographs_are_tinted_and_coloured_ones_keep_their_colours(photographs):
    rng = np.random.default_rng(0)
    crops = [textures.crop_texture(rng, photographs.train["brick"], FRAME) for _ in range(10)]
    tints = [np.ptp(crop.reshape(-1, 3).mean(axis=0)) for crop in crops]
    assert min(tints) > 2
    assert np.std([crop.mean() for crop in crops]) > 10


def test_large_frames_are_cropped_from_small_photographs():
    """Rounding must not make the largest crop larger than the photograph."""
    photograph = np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8)
    for seed in range(200):
        crop = textures._random_crop(np.random.default_rng(seed), photograph, (160, 90))
        assert 0 < crop.center[0] < 83
        assert 0 < crop.center[1] < 61
    crop = textures.crop_texture(np.random.default_rng(0), photograph, (160, 90))
    assert crop.shape == (160, 90, 3)


def test_large_frames_hold_the_crop_that_was_probed_small(photographs):
    """The probe decides between crops; what is stored is the same crop in full."""
    large, small = (180, 140), (65, 50)
    wide = textures.crop_texture(
        np.random.default_rng(4), photographs.train["coins"], large, vary=False
    )
    assert wide.shape == (*large, 3)
    rng = np.random.default_rng(4)
    tries = [textures._random_crop(rng, photographs.train["coins"], large) for _ in range(6)]
    reduced = np.asarray(Image.fromarray(wide).resize(small[::-1], Image.Resampling.BOX))
    probes = [textures._resample(photographs.train["coins"], crop, small) for crop in tries]
    errors = [np.abs(probe.astype(float) - reduced).mean() for probe in probes]
    assert min(errors) < 4


# Folders -----------------------------------------------------------------------------------------


def _write_photographs(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    for index in range(count):
        pixels = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
        (folder / f"roof_{index}.png").parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"roof_{index}.png")


def test_a_folder_is_divided_by_content_and_stays_divided_as_it_grows(tmp_path):
    _write_photographs(tmp_path / "all", 60)
    whole = folder_textures(tmp_path / "all", held_out_share=0.3)
    assert 8 <= len(whole.held_out) <= 28
    assert len(whole.train) + len(whole.held_out) == 60
    # A part of the folder, under other names and with a copy.
    (tmp_path / "part").mkdir()
    for index in range(30):
        content = (tmp_path / "all" / f"roof_{index}.png").read_bytes()
        (tmp_path / "part" / f"other_{index}.png").write_bytes(content)
        (tmp_path / "part" / f"copy_{index}.png").write_bytes(content)
    part = folder_textures(tmp_path / "part", held_out_share=0.3)
    for index in range(30):
        held_out = f"roof_{index}.png" in whole.held_out
        for name in (f"other_{index}.png", f"copy_{index}.png"):
            assert (name in part.held_out) == held_out
            assert (name in part.train) != held_out


def test_small_folders_hold_one_photograph_out_and_never_all(tmp_path):
    _write_photographs(tmp_path, 2)
    for share in (1e-9, 1 - 1e-9):
        found = folder_textures(tmp_path, held_out_share=share)
        assert (len(found.train), len(found.held_out)) == (1, 1)
    (tmp_path / "roof_1.png").write_bytes((tmp_path / "roof_0.png").read_bytes())
    with pytest.raises(InvalidInput, match="holds 1 different photographs; allowed: at least 2"):
        folder_textures(tmp_path)
    with pytest.raises(InvalidInput, match=r"held_out_share is 0\.0; allowed: above 0, below 1"):
        folder_textures(tmp_path, held_out_share=0.0)
    with pytest.raises(InvalidInput, match="allowed: a folder of photographs"):
        folder_textures(tmp_path / "absent")


def test_photographs_of_a_folder_are_turned_upright_shrunk_and_named(tmp_path):
    _write_photographs(tmp_path, 2)
    (tmp_path / "roof_1.txt").write_text("\n  red  roof tiles.\nmore\n")
    wide = np.zeros((100, 300, 3), np.uint8)
    wide[:, :150, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera was held upright: turn by 90 degrees to the right.
    (tmp_path / "b").mkdir()
    Image.fromarray(wide).save(tmp_path / "b" / "tower.jpg", exif=exif)
    found = folder_textures(tmp_path, max_side_px=150)
    both = {**found.train, **found.held_out}
    assert both["b/tower.jpg"].shape == (150, 50, 3)
    assert both["b/tower.jpg"][20, 25, 0] > 200
    assert both["b/tower.jpg"][130, 25, 0] < 50
    assert both["roof_0.png"].shape == (40, 60, 3)
    assert found.words == {
        "roof_0.png": "roof 0",
        "roof_1.png": "red roof tiles",
        "b/tower.jpg": "tower",
    }


def test_the_digest_of_a_folder_is_of_its_content_not_of_its_place(tmp_path):
    for folder in ("a", "b"):
        _write_photographs(tmp_path / folder, 3)
    digest = folder_textures(tmp_path / "a").digest
    assert folder_textures(tmp_path / "b").digest == digest
    assert folder_textures(tmp_path / "b", max_side_px=500).digest != digest
    (tmp_path / "b" / "roof_0.txt").write_text("tiles")
    assert folder_textures(tmp_path / "b").digest != digest


def test_a_damaged_or_changed_texture_skips_the_scene(tmp_path):
    _write_photographs(tmp_path, 4)
    found = folder_textures(tmp_path)
    source = LayeredSource(size_px=16, textures=found, max_layers=2)
    assert source.scene("train", 0).frame == (16, 16)
    name = min(found.held_out)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-500])
    with pytest.raises(SkippedScene, match=f"{name}: the file has changed") as caught:
        [source.scene("eval_heldout", index) for index in range(20)]
    assert found.train[min(found.train)].shape == (40, 60, 3)
    assert caught.value.damaged
    with pytest.raises(SkippedScene, match=f"{name}: cannot be read"):
        _read_all(tmp_path)


def _read_all(folder: Path) -> list[np.ndarray]:
    found = folder_textures(folder)
    return [*found.train.values(), *found.held_out.values()]
