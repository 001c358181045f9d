import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bokeh_jax.optics import Lens
from bokeh_jax.simulation import AugmentConfig, SimulationConfig, crop_scene, photograph
from bokeh_jax.simulation.augment import apply_color_map, draw_color_map, flip_record
from bokeh_jax.simulation.scene import recolor

ALWAYS = AugmentConfig(flip_rate=1.0)


def layered_record(height_px=20, width_px=28):
    random = np.random.default_rng(0)
    layers = random.integers(0, 256, (2, height_px, width_px, 4), np.uint8)
    layers[1, ..., 3] = 255
    return {
        "layers": jnp.asarray(layers),
        "layer_disparity": jnp.asarray([[0.01, 0.004, 0.5], [-0.002, 0.003, 0.2]], jnp.float32),
        "layer_gain": jnp.asarray([3.0, 1.0], jnp.float32),
    }


def photo_record(height_px=20, width_px=28):
    random = np.random.default_rng(1)
    return {
        "image": jnp.asarray(random.integers(0, 256, (height_px, width_px, 3), np.uint8)),
        "disparity": jnp.asarray(random.integers(0, 65536, (height_px, width_px), np.uint16)),
    }


@pytest.mark.parametrize("record", [layered_record(), photo_record()], ids=["layered", "photo"])
def test_a_flipped_scene_is_the_mirror_image_of_the_scene_disparity_and_all(record):
    crop = {"frame": (14, 18), "max_radius_px": 1.0}
    scene = crop_scene(record, None, **crop)
    flipped = crop_scene(flip_record(record, jax.random.key(0), ALWAYS), None, **crop)
    np.testing.assert_allclose(flipped.image, scene.image[:, ::-1], atol=1e-6)
    np.testing.assert_allclose(flipped.disparity, scene.disparity[:, ::-1], atol=1e-6)
    assert np.abs(flipped.image - scene.image).max() > 0.1


def test_scenes_are_flipped_at_the_rate_that_is_asked():
    record = photo_record()
    config = AugmentConfig(flip_rate=0.25)
    keys = jax.random.split(jax.random.key(1), 400)
    flipped = jax.vmap(lambda key: flip_record(record, key, config)["disparity"])(keys)
    share = np.mean(np.any(np.asarray(flipped) != np.asarray(record["disparity"]), axis=(1, 2)))
    assert abs(share - 0.25) < 0.07
    never = flip_record(record, jax.random.key(1), AugmentConfig(flip_rate=0.0))
    assert never is record


def test_colors_keep_grey_apart_from_exposure_and_white_balance_and_stay_linear():
    key = jax.random.key(2)
    saturation = draw_color_map(key, AugmentConfig(saturation=0.8))
    np.testing.assert_allclose(saturation @ jnp.ones(3), jnp.ones(3), atol=1e-6)
    assert np.abs(np.asarray(saturation) - np.eye(3)).max() > 1e-3
    exposure = draw_color_map(key, AugmentConfig(exposure_stops=2.0))
    gain = float(exposure[0, 0])
    np.testing.assert_allclose(exposure, gain * np.eye(3), atol=1e-6)
    assert 0.25 <= gain <= 4
    assert abs(gain - 1) > 1e-3
    white = draw_color_map(key, AugmentConfig(white_balance_stops=1.0))
    assert float(jnp.prod(jnp.diag(white))) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(white, np.diag(np.diag(white)), atol=1e-6)
    np.testing.assert_allclose(draw_color_map(key, AugmentConfig()), np.eye(3), atol=1e-6)


def test_a_map_of_colors_is_applied_from_in_to_out():
    swap = jnp.asarray([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
    mapped = apply_color_map(jnp.asarray([0.1, 0.2, 0.3])[None, None], swap)
    np.testing.assert_allclose(mapped[0, 0], [0.2, 0.1, 0.6], atol=1e-6)
    dark = apply_color_map(jnp.asarray([0.5, 0.0, 0.0])[None, None], -swap)
    assert float(dark.min()) == 0


def test_photographs_of_a_recolored_scene_are_recolored_photographs():
    color_map = draw_color_map(
        jax.random.key(3), AugmentConfig(exposure_stops=1.0, white_balance_stops=0.5)
    )
    scene = crop_scene(layered_record(44, 52), None, frame=(24, 28), max_radius_px=3.0)
    batch = jax.tree.map(lambda leaf: leaf[None], (scene, recolor(scene, color_map)))
    lens = Lens(focus_disparity=jnp.full((1, 1), 0.3), blur_px=jnp.full((1, 1), 3.0))
    plain, recolored = (photograph(one, lens, max_radius_px=3.0) for one in batch)
    np.testing.assert_allclose(recolored, apply_color_map(plain, color_map), atol=2e-4)
    np.testing.assert_allclose(
        batch[1].image, apply_color_map(batch[0].image, color_map), atol=1e-5
    )


def test_a_recolored_photograph_keeps_its_disparity():
    scene = crop_scene(photo_record(), None, frame=(14, 18), max_radius_px=1.0)
    color_map = draw_color_map(jax.random.key(4), AugmentConfig(saturation=0.5))
    recolored = recolor(scene, color_map)
    np.testing.assert_array_equal(recolored.image, apply_color_map(scene.image, color_map))
    np.testing.assert_array_equal(recolored.disparity, scene.disparity)


@pytest.mark.parametrize(
    ("field", "value"),
    [("flip_rate", 1.5), ("exposure_stops", -1.0), ("saturation", 2.0)],
)
def test_numbers_out_of_range_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=f"{field} is {value}; allowed"):
        dataclasses.replace(AugmentConfig(), **{field: value})


@pytest.mark.parametrize(
    ("stored", "frame"),
    [((48, 48), (32, 32)), ((40, 60), (24, 40)), ((60, 40), (40, 24)), ((480, 480), (32, 32))],
)
def test_working_frames_have_the_stored_proportions_and_one_size(stored, frame):
    config = SimulationConfig(size_px=32, frame_multiple_px=8)
    assert config.frame_of(stored) == frame


def test_working_frames_grow_with_the_stored_resolution_where_that_is_asked():
    config = SimulationConfig(size_px=32, stored_size_px=48)
    assert config.frame_of((48, 48)) == (32, 32)
    assert config.frame_of((96, 96)) == (64, 64)
    assert config.frame_of((72, 96)) == (48, 64)
    with pytest.raises(ValueError, match="stored_size_px is 16; allowed: None, or size_px=32"):
        SimulationConfig(size_px=32, stored_size_px=16)
    with pytest.raises(ValueError, match="frame_multiple_px is 7; allowed: divisors of size_px=32"):
        SimulationConfig(size_px=32, frame_multiple_px=7)
