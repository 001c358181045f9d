"""A network tile by tile: covers, blends without seams, and asks what a small photograph asks."""

import dataclasses

import jax
import numpy as np
import pytest
from random_runs import perturbed

from bokeh_jax import models
from bokeh_jax.inference import Refocuser, TakenWith, network_tiles
from bokeh_jax.inference.request import Request, lens_blur


@pytest.mark.parametrize("size", [(32, 32), (33, 70), (200, 32), (96, 161)])
def test_tiles_cover_the_picture_and_come_back(size):
    at = network_tiles.corners(size, 32)
    assert at.min() == 0
    assert (at.max(axis=0) + 32 == size).all(), "no tile reaches beyond the picture"
    picture = np.random.default_rng(0).uniform(size=(*size, 3)).astype(np.float32)
    tiles = network_tiles.cut(picture, at, 32)
    np.testing.assert_allclose(network_tiles.blend(tiles, at, size), picture, atol=1e-6)
    assert len(at) < 3.0 * size[0] * size[1] / 32**2 + 4, "they overlap by a quarter"


def test_tiles_that_disagree_pass_into_each_other():
    at = network_tiles.corners((32, 56), 32)
    assert at.tolist() == [[0, 0], [0, 24]]
    tiles = np.stack([np.zeros((32, 32, 1)), np.ones((32, 32, 1))]).astype(np.float32)
    row = network_tiles.blend(tiles, at, (32, 56))[16, :, 0]
    np.testing.assert_allclose(row[:24], 0.0)
    np.testing.assert_allclose(row[32:], 1.0)
    # Both weights fall linearly over the 8 px they share.
    np.testing.assert_allclose(row[24:32], (np.arange(8) + 0.5) / 8, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "blur", "scale"),
    [
        ((256, 256), 0.0, 1.0),
        ((256, 256), 0.01, 1.0),  # 2.56 px; training had up to 0.15 · 32 = 4.8 px
        ((256, 256), 0.03, 4.8 / 7.68),
        ((64, 256), 0.30, 0.5),  # 4.8 / 76.8, but then a side would be below a tile
        ((31, 256), 0.01, None),
    ],
)
def test_the_scale_keeps_the_blur_within_training(size, blur, scale):
    found = network_tiles.working_scale(size, blur, tile_px=32, blur_fraction_max=0.15)
    assert found == (None if scale is None else pytest.approx(scale))


def test_a_tile_is_told_what_a_photograph_of_its_size_would_be():
    rng = np.random.default_rng(1)
    pixels = rng.uniform(size=(48, 80, 3)).astype(np.float32)
    disparity = np.tile(np.linspace(0.0, 1.0, 80, dtype=np.float32), (48, 1))
    ask = Request(pixels, (0.8, 0.5), 0.05, disparity, TakenWith((0.1, 0.5), 0.025))
    at = network_tiles.corners((48, 80), 16)
    told = network_tiles.conditions(ask, pixels, disparity, 1.0 - pixels, at, 16)
    plane = disparity[0, 64]
    index = [tuple(corner) for corner in at.tolist()].index((12, 60))
    np.testing.assert_allclose(told.reference[index], 2 * pixels[12:28, 60:76] - 1, atol=1e-6)
    np.testing.assert_allclose(told.guess[index], 1 - 2 * pixels[12:28, 60:76], atol=1e-6)
    # The radius in pixels, over the tile's width: 0.05 · 80 px · (d − d_f) / 16 px.
    expected = 0.05 * 80 * (disparity[12:28, 60:76] - plane) / 16
    np.testing.assert_allclose(told.target_defocus[index], expected, atol=1e-6)
    own = 0.025 * 80 * (disparity[12:28, 60:76] - disparity[0, 8]) / 16
    np.testing.assert_allclose(told.reference_defocus[index], own, atol=1e-6)
    np.testing.assert_allclose(told.blur, 0.05 * 80 / 16)
    # The plane crosses this tile at its fifth column, and lies beyond the first tile's last one.
    np.testing.assert_allclose(told.focus_point[index], ((4 + 0.5) / 16, 0.5 / 16))
    assert told.focus_point[0][0] == pytest.approx(15.5 / 16)
    np.testing.assert_allclose(told.focus_disparity, plane)


@pytest.fixture(scope="module")
def refocuser(tiny):
    params = jax.jit(lambda: models.init_params(tiny.model, jax.random.key(0), 16, 16))()
    return Refocuser(tiny, jax.device_put(perturbed(params, 1)), step=0)


@pytest.fixture(scope="module")
def scene():
    rng = np.random.default_rng(2)
    image = rng.uniform(size=(24, 40, 3)).astype(np.float32)
    disparity = np.tile(np.linspace(0.2, 0.8, 40, dtype=np.float32), (24, 1))
    return image, disparity


def test_one_tile_is_the_whole_photograph(refocuser, scene):
    image, disparity = (values[:16, :16] for values in scene)
    ask = {"focus": (0.3, 0.5), "blur": 0.05, "disparity": disparity, "seed": 3}
    tiled, whole = (refocuser(image, detail=detail, **ask) for detail in ("tiles", "whole"))
    assert (tiled.num_tiles, tiled.working_size_px) == (1, (16, 16))
    blurred = lens_blur(image, disparity, (0.3, 0.5), 0.05)
    assert np.abs(whole.image - blurred).max() > 0.01, "the network adds something"
    # The point of focus is told as the middle of its pixel; the rest is the same.
    np.testing.assert_allclose(tiled.image, whole.image, atol=0.02)


def test_a_larger_photograph_keeps_its_size_and_its_tiles_are_counted(refocuser, scene):
    image, disparity = scene
    seen = []
    result = refocuser(
        image,
        focus=(0.3, 0.5),
        blur=0.02,
        disparity=disparity,
        on_step=lambda done, total: seen.append((done, total)),
    )
    assert result.image.shape == image.shape
    assert result.working_size_px == (24, 40)
    assert result.num_tiles == len(network_tiles.corners((24, 40), 16)) == 6
    assert seen == [(6, 6)]
    assert np.abs(result.image - lens_blur(image, disparity, (0.3, 0.5), 0.02)).max() > 0.01


def test_without_disparity_or_room_the_whole_is_looked_at(refocuser, scene):
    image, disparity = scene
    ask = {"focus": (0.3, 0.5), "blur": 0.02}
    assert refocuser(image, **ask).num_tiles == 1
    thin = refocuser(image[:12], disparity=disparity[:12], **ask)
    assert thin.num_tiles == 1
    assert thin.full_resolution
    unguided = dataclasses.replace(
        refocuser,
        config=dataclasses.replace(
            refocuser.config,
            objective=dataclasses.replace(refocuser.config.objective, guide=False),
        ),
    )
    assert not unguided(image, disparity=disparity, **ask).full_resolution
