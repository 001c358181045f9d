import functools
import math

import jax
import numpy as np
import pytest
from lens_ray_tracer import decibel, disc_points, trace, triangle_points

from bokeh_jax.optics import (
    Disc,
    Lens,
    Polygon,
    composite_layers,
    render_defocus,
    render_layers,
    visible_disparity,
)

SIZE, MARGIN = 32, 8
POINTS = disc_points(10)


def texture(seed, waves=3):
    """Smooth colours in [0.1, 0.9] over the stored frame."""
    random = np.random.default_rng(seed)
    side = SIZE + 2 * MARGIN
    y, x = np.mgrid[:side, :side] / side
    picture = np.full((side, side, 3), 0.5)
    for _ in range(4):
        direction = random.uniform(-waves, waves, 2)
        phase = random.uniform(0, 2 * math.pi, 3)
        turn = 2 * math.pi * (direction[0] * x + direction[1] * y)
        picture += 0.1 * np.sin(turn[..., None] + phase)
    return picture


def disc_alpha(radius_px):
    """A disc in the frame's middle, antialiased over a pixel."""
    side = SIZE + 2 * MARGIN
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return np.clip(radius_px + 0.5 - np.hypot(x, y), 0, 1)


def two_layers(front, back):
    alpha = np.stack([disc_alpha(9.0), np.ones((SIZE + 2 * MARGIN,) * 2)])
    return np.float32(np.concatenate([np.stack([front, back]), alpha[..., None]], axis=-1))


FLAT = np.float32([[0, 0, 1], [0, 0, 0]])
SLANTED = np.float32([[0.004, -0.006, 0.9], [0.003, 0.008, 0.1]])


# One program for all lenses and surfaces.
rendered = functools.partial(
    jax.jit(render_layers, static_argnames=("aperture", "max_radius_px", "margin_px")),
    margin_px=MARGIN,
)
photographed = jax.jit(
    lambda layers, planes: (
        composite_layers(layers, margin_px=MARGIN),
        visible_disparity(layers[..., 3], planes, margin_px=MARGIN),
    )
)
refocused = jax.jit(render_defocus, static_argnames=("aperture", "max_radius_px"))


@pytest.mark.parametrize(
    ("planes", "focus", "least_decibel"),
    [(FLAT, 1.0, 71), (FLAT, 0.0, 67), (FLAT, 0.5, 42.5), (SLANTED, 0.3, 56.5), (SLANTED, 1.0, 47)],
)
def test_layers_match_traced_rays(planes, focus, least_decibel):
    layers = two_layers(texture(1), texture(2))
    truth = trace(layers, planes, focus, 6.0, POINTS, MARGIN)
    picture = rendered(layers, planes, Lens(focus, 6.0), max_radius_px=6.0)
    assert decibel(picture, truth) > least_decibel


def test_a_slanted_surface_matches_traced_rays_with_the_disc():
    layers = np.concatenate([texture(3), np.ones((SIZE + 2 * MARGIN,) * 2 + (1,))], -1)[None]
    layers, plane = np.float32(layers), np.float32([[0.02, 0.01, 0.0]])
    truth = trace(layers, plane, 0.5, 6.0, POINTS, MARGIN)
    picture = rendered(layers, plane, Lens(0.5, 6.0), max_radius_px=6.0)
    assert decibel(picture, truth) > 56


@pytest.mark.parametrize("focus", [0.0, 1.0])
def test_a_triangle_blurs_near_and_far_the_way_rays_do(focus):
    turns = np.array([0, 1, 2]) * 2 * math.pi / 3 + 0.4
    points = triangle_points(np.stack([np.cos(turns), np.sin(turns)], -1), 20)
    layers = two_layers(texture(1), texture(2))
    truth = trace(layers, FLAT, focus, 6.0, points, MARGIN)
    picture = rendered(layers, FLAT, Lens(focus, 6.0), aperture=Polygon(3, 0.4), max_radius_px=6.0)
    assert decibel(picture, truth) > 64
    turned = rendered(
        layers, FLAT, Lens(focus, 6.0), aperture=Polygon(3, 0.4 + math.pi), max_radius_px=6.0
    )
    assert decibel(turned, truth) < 50


@pytest.mark.parametrize("aperture", [Disc(), Polygon(6)])
@pytest.mark.parametrize(("focus", "least_decibel"), [(1.0, 44), (0.0, 45), (0.5, 52)])
def test_a_photograph_with_depth_matches_traced_rays(aperture, focus, least_decibel):
    # The background is smooth, so what is hidden can be guessed.
    layers = two_layers(texture(5, waves=2), texture(6, waves=0.5))
    points = POINTS
    if aperture != Disc():
        turns = np.arange(7) * math.pi / 3
        corners = np.stack([np.cos(turns), np.sin(turns)], -1)
        points = np.concatenate(
            [triangle_points([(0, 0), corners[i], corners[i + 1]], 7) for i in range(6)]
        )
    truth = trace(layers, FLAT, focus, 6.0, points, MARGIN)
    image, disparity = photographed(layers, FLAT)
    picture = refocused(image, disparity, Lens(focus, 6.0), aperture=aperture, max_radius_px=6.0)
    inner = slice(6, -6)
    assert decibel(picture[inner, inner], truth[inner, inner]) > least_decibel
