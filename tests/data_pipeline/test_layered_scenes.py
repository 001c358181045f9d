"""Textures, silhouettes and layered scenes."""

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bokeh_jax.errors import InvalidInput
from data_pipeline import layered, silhouettes, textures
from data_pipeline.layered import LayeredSource
from data_pipeline.source import SPLITS

SIZE_PX = 32


@pytest.fixture(scope="module")
def photographs() -> textures.Textures:
    return textures.load_textures()


@pytest.fixture(scope="module")
def source(photographs) -> LayeredSource:
    return LayeredSource(size_px=SIZE_PX, seed=3, textures=photographs)


@pytest.fixture(scope="module")
def scenes(source) -> list:
    return [source.scene("train", index) for index in range(60)]


def _plane_values(planes: np.ndarray, size_px: int) -> np.ndarray:
    """Disparity [l, size + 1, size + 1] at every corner of every pixel."""
    y, x = np.mgrid[: size_px + 1, : size_px + 1].astype(np.float32)
    a, b, c = (planes[:, i, None, None] for i in range(3))
    return a * x + b * y + c


# Textures ----------------------------------------------------------------------------------------


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
@pytest.mark.parametrize("flip", [-1.0, 1.0])
def test_crop_of_a_linear_ramp_is_the_ramp_at_the_mapped_points(side_px, flip):
    size_px, center, angle = 40, (110.3, 92.6), 0.7
    y, x = np.mgrid[:200, :220] + 0.5
    ramps = np.stack([x, y, (x + y) / 2], axis=-1)
    crop = textures._resample(np.round(ramps).astype(np.uint8), center, side_px, angle, flip, 40)
    v, u = (np.mgrid[:size_px, :size_px] + 0.5 - size_px / 2) * side_px / size_px
    source_x = center[0] + math.cos(angle) * flip * u - math.sin(angle) * v
    source_y = center[1] + math.sin(angle) * flip * u + math.cos(angle) * v
    expected = np.stack([source_x, source_y, (source_x + source_y) / 2], axis=-1)
    # Rounding of the ramps, of the halved and of the stored values: half a grey level each.
    assert np.abs(crop - expected).max() < 1.6
    assert np.abs((crop - expected).mean(axis=(0, 1))).max() < 0.6


def test_crop_averages_what_it_covers():
    checkerboard = (np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)
    photograph = np.repeat(checkerboard[..., None], 3, axis=-1)
    crop = textures._resample(photograph, (128.0, 128.0), 160.0, 0.3, 1.0, SIZE_PX)
    # 25 pixels a stored pixel: sampling one of them would give 0 or 255.
    assert np.abs(crop.astype(float) - 127.5).max() < 25


def test_detailed_crops_are_preferred():
    rng = np.random.default_rng(0)
    photograph = np.full((300, 600, 3), 100, np.uint8)
    photograph[:, 300:] = rng.integers(0, 256, (300, 300, 1))
    plain = [
        textures.detail_of(textures._random_crop(rng, photograph, SIZE_PX)) for _ in range(100)
    ]
    assert np.mean(np.array(plain) < textures.MIN_DETAIL) > 0.3
    chosen = [textures.crop_texture(rng, photograph, SIZE_PX) for _ in range(100)]
    flat = [int(np.ptp(crop, axis=(0, 1)).max()) < 30 for crop in chosen]
    assert np.mean(flat) < 0.03


def test_detail_is_the_mean_difference_of_neighbours():
    stripes = np.zeros((8, 8, 3), np.uint8)
    stripes[:, ::2] = 255
    assert textures.detail_of(stripes) == pytest.approx(0.5)
    assert textures.detail_of(stripes.transpose(1, 0, 2)) == pytest.approx(0.5)


def test_grey_photographs_are_tinted_and_coloured_ones_keep_their_colours(photographs):
    rng = np.random.default_rng(0)
    crops = [textures.crop_texture(rng, photographs.train["brick"], SIZE_PX) for _ in range(10)]
    tints = [np.ptp(crop.reshape(-1, 3).mean(axis=0)) for crop in crops]
    assert min(tints) > 2
    assert np.std([crop.mean() for crop in crops]) > 10


# Silhouettes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("radius", [0.125, 0.25, 0.4375])
def test_disc_has_the_area_of_a_disc(radius):
    covered = silhouettes.disc(64, radius).mean() / 255
    assert covered == pytest.approx(math.pi * radius**2, rel=0.01)


@pytest.mark.parametrize("kind", sorted(silhouettes.SILHOUETTES))
def test_silhouettes_are_sharp_antialiased_and_varied(kind):
    rng = np.random.default_rng(1)
    alphas = np.stack([silhouettes.draw_silhouette(rng, kind, SIZE_PX) for _ in range(24)])
    assert len({alpha.tobytes() for alpha in alphas}) == 24
    covered = (alphas / 255).mean(axis=(1, 2))
    assert (covered > 0.005).all()
    assert (covered < 0.97).all()
    # Mostly inside or outside, and partly covered only along outlines.
    partial = (alphas > 0) & (alphas < 255)
    assert partial.any(axis=(1, 2)).all()
    assert partial.mean() < 0.5
    assert (alphas == 0).any()
    assert (alphas > 200).any()


def test_alpha_is_the_covered_fraction():
    """A pixel's alpha is the mean over it of the same shape drawn eight times finer."""
    coarse = silhouettes.draw_silhouette(np.random.default_rng(5), "star", 32)
    fine = silhouettes.draw_silhouette(np.random.default_rng(5), "star", 256)
    averaged = fine.reshape(32, 8, 32, 8).mean(axis=(1, 3))
    # An outline shifts by at most half a fine cell of 1/8 pixel.
    assert np.abs(coarse - averaged).max() < 255 / 8 + 1
    assert np.abs(coarse - averaged).mean() < 2


# Scenes ------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(2, 8),
    size_px=st.integers(16, 1024),
    gap=st.floats(0.001, 0.07),
)
def test_planes_keep_order_gap_and_range_over_the_frame(seed, count, size_px, gap):
    planes = layered._planes(np.random.default_rng(seed), count, size_px, gap)
    corners = np.array([[0, 0], [size_px, 0], [0, size_px], [size_px, size_px]], np.float32)
    values = planes[:, :2] @ corners.T + planes[:, 2:]
    assert (values[:-1] - values[1:]).min() >= gap
    assert values.min() >= 0
    assert values.max() <= 1


def test_planes_use_the_whole_range_and_lean():
    planes = [layered._planes(np.random.default_rng(i), 4, SIZE_PX, 0.06) for i in range(200)]
    values = np.stack([_plane_values(p, SIZE_PX) for p in planes])
    assert values[:, 0].max() > 0.97
    assert values[:, -1].min() < 0.03
    slopes = np.abs(np.stack(planes)[..., :2]).sum(axis=-1) * SIZE_PX
    assert np.quantile(slopes, 0.1) < 0.01
    assert np.quantile(slopes, 0.9) > 0.1


def test_order_of_depth_holds_at_every_pixel_of_every_scene(scenes, source):
    for scene in scenes:
        values = _plane_values(scene["layer_disparity"], SIZE_PX)
        assert (values[:-1] - values[1:]).min() >= source.min_gap
        assert values.min() >= 0
        assert values.max() <= 1


def test_scene_arrays_are_as_the_contract_says(scenes):
    for scene in scenes:
        layers, planes = scene["layers"], scene["layer_disparity"]
        assert layers.dtype == np.uint8
        assert planes.dtype == np.float32
        assert layers.shape == (len(planes), SIZE_PX, SIZE_PX, 4)
        assert (layers[-1, ..., 3] == 255).all()
        provenance = json.loads(scene["provenance"])
        assert len(provenance["textures"]) == len(provenance["silhouettes"]) == len(layers)
        assert len(set(provenance["textures"])) == len(layers)
    assert {len(scene["layers"]) for scene in scenes} == {2, 3, 4, 5}


def test_every_layer_is_seen(scenes):
    for scene in scenes:
        alpha = scene["layers"][..., 3] / 255
        in_front = np.concatenate([np.ones_like(alpha[:1]), np.cumprod(1 - alpha, axis=0)[:-1]])
        visible = (in_front * alpha).mean(axis=(1, 2))
        assert visible.sum() == pytest.approx(1)
        assert visible.min() >= layered.MIN_VISIBLE
        assert visible[-1] >= layered.MIN_FAR_VISIBLE


def test_a_scene_without_any_visible_silhouette_gets_a_disc(monkeypatch, source):
    monkeypatch.setattr(layered, "MIN_VISIBLE", 2.0)
    scene = source.scene("train", 0)
    np.testing.assert_array_equal(
        scene["layers"][0, ..., 3], silhouettes.disc(SIZE_PX, radius_fraction=0.25)
    )
    assert len(scene["layers"]) == 2


def test_textures_are_rich_at_the_stored_size(scenes):
    details = [textures.detail_of(layer[..., :3]) for scene in scenes for layer in scene["layers"]]
    assert np.median(details) > 0.03
    assert np.mean(np.array(details) > 0.01) > 0.95


def test_all_silhouettes_and_training_textures_occur(scenes, photographs):
    provenances = [json.loads(scene["provenance"]) for scene in scenes]
    kinds = {kind for p in provenances for kind in p["silhouettes"]}
    assert kinds >= set(silhouettes.SILHOUETTES) | {"full"}
    assert {name for p in provenances for name in p["textures"]} == set(photographs.train)


def test_scene_is_a_function_of_seed_split_and_index(source, photographs):
    def content(seed: int, split: str, index: int) -> bytes:
        scene = LayeredSource(size_px=SIZE_PX, seed=seed, textures=photographs).scene(split, index)
        return scene["layers"].tobytes() + scene["layer_disparity"].tobytes()

    assert content(3, "train", 7) == content(3, "train", 7)
    # Made in any order: nothing is left behind by the scenes made before.
    assert source.scene("train", 7)["layers"].tobytes() in content(3, "train", 7)
    others = [(3, "train", 8), (4, "train", 7), (3, "eval_seen", 7), (3, "eval_heldout", 7)]
    assert len({content(*key) for key in [(3, "train", 7), *others]}) == 5


def test_held_out_photographs_never_reach_a_training_scene(source, photographs):
    """Other held-out pixels change held-out scenes only; other training pixels the rest only."""
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)

    def exchanged(group: str) -> LayeredSource:
        names = getattr(photographs, group)
        other = dataclasses.replace(photographs, **{group: dict.fromkeys(names, noise)})
        return dataclasses.replace(source, textures=other)

    for index in range(10):
        for split in SPLITS:
            before = source.scene(split, index)["layers"]
            held_out = split == "eval_heldout"
            with_other_held_out = exchanged("held_out").scene(split, index)["layers"]
            with_other_train = exchanged("train").scene(split, index)["layers"]
            assert np.array_equal(before, with_other_held_out) == (not held_out)
            assert np.array_equal(before, with_other_train) == held_out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size_px": 8}, "size_px is 8; allowed: 16 to 1024"),
        ({"seed": -1}, "seed is -1; allowed: 0 to 4294967295"),
        ({"max_layers": 1}, "max_layers is 1; allowed: 2 to 8"),
        ({"min_gap": 0.0}, "min_gap is 0.0; allowed"),
        ({"min_gap": 0.2}, "min_gap is 0.2; allowed"),
    ],
)
def test_bad_source_values_are_refused(photographs, changes, message):
    with pytest.raises(InvalidInput, match=message):
        LayeredSource(textures=photographs, **changes)


def test_unknown_split_is_refused(source):
    with pytest.raises(InvalidInput, match="split is 'test'; allowed: train, eval_seen, eval_"):
        source.scene("test", 0)
    with pytest.raises(InvalidInput, match="split is 'test'"):
        source.num_scenes("test")


def test_recipe_names_everything_that_changes_scenes(source, photographs):
    noise = np.zeros((100, 100, 3), np.uint8)
    recipes = [source.recipe()] + [
        dataclasses.replace(source, **change).recipe()
        for change in (
            {"size_px": 33},
            {"seed": 4},
            {"max_layers": 4},
            {"min_gap": 0.05},
            {"textures": textures.Textures({"a": noise}, photographs.held_out, "other")},
        )
    ]
    assert len({json.dumps(recipe) for recipe in recipes}) == len(recipes)
