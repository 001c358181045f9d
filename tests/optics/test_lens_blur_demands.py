"""Beyond the traced focus settings: other radii, a third layer, lights, and a camera to be found.

Truth at radii and with layers that nobody traced is `render_layers`, which is within 72 dB of
traced rays where one layer at most is out of focus. `make test` has small traced scenes
(test_ray_traced_scenes.py).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from camera_search import descend
from test_lens_blur_truth import (
    FOLDER,
    decibel,
    layers_of,
    load,
    photograph,
    photograph_layers,
)

from bokeh_jax.optics import Lens, composite_layers, render_defocus, visible_disparity

pytestmark = [
    pytest.mark.long,
    pytest.mark.optimised,
    pytest.mark.skipif(
        not FOLDER.is_dir(), reason=f"no ray-traced truth in {FOLDER.parent.name}/{FOLDER.name}"
    ),
]


def both_ways(layers, planes, margin_px, lens, max_radius_px):
    """A layered scene photographed with all its layers known, and from what is visible of it."""
    known = photograph_layers(
        layers, planes, lens, max_radius_px=max_radius_px, margin_px=margin_px
    )
    image = composite_layers(layers, margin_px=margin_px)
    disparity = visible_disparity(layers[..., 3], planes, margin_px=margin_px)
    seen = photograph(image, disparity, lens, max_radius_px=max_radius_px)
    return np.asarray(known), np.asarray(seen), np.asarray(image), np.asarray(disparity)


@pytest.mark.parametrize(
    ("blur_px", "focus", "least_decibel"),
    [(6.0, 1.0, 47.5), (6.0, 0.0, 43.5), (40.0, 1.0, 42.8), (40.0, 0.0, 36.2)],
)
def test_small_and_large_radii_come_close_to_known_layers(blur_px, focus, least_decibel):
    scene = load("two_layer_blob")
    known, seen, *_ = both_ways(
        *layers_of(scene), int(scene["margin"]), Lens(focus, blur_px), blur_px
    )
    assert decibel(seen, known, crop_px=44) > least_decibel


def test_three_layers_come_close_to_known_layers():
    front, rest = load("two_layer_thin"), load("two_layer_blob")
    front_layers, _ = layers_of(front)
    layers, _ = layers_of(rest)
    three = jnp.concatenate([front_layers[:1], layers])
    depths = jnp.zeros((3, 3)).at[:, 2].set(jnp.float32([1.0, 0.5, 0.0]))
    for focus, least_decibel in ((1.0, 40.1), (0.5, 37.5), (0.0, 33.8)):
        known, seen, *_ = both_ways(three, depths, int(rest["margin"]), Lens(focus, 20.0), 20.0)
        assert decibel(seen, known) > least_decibel, f"focus {focus}"


@pytest.mark.parametrize("focus", [1.0, 0.0])
def test_lights_of_eight_times_white_keep_their_light_and_their_place(focus):
    scene = load("two_layer_blob")
    layers, planes = layers_of(scene)
    margin_px = int(scene["margin"])
    # Spots of light all over both layers.
    lit = np.zeros(layers.shape[1:3], bool)
    for dy, dx in np.ndindex(3, 3):
        lit[10 + dy :: 37, 10 + dx :: 41] = True
    layers = layers.at[..., :3].set(jnp.where(lit[None, :, :, None], 8.0, layers[..., :3]))
    known, seen, image, disparity = both_ways(layers, planes, margin_px, Lens(focus, 20.0), 20.0)
    inner = slice(24, -24)
    # No darkening: the light as a whole is that of the known layers.
    np.testing.assert_allclose(seen[inner, inner].mean(), known[inner, inner].mean(), rtol=0.01)
    # No leaking: what is in focus, and out of the blur's reach, is the photograph itself.
    in_focus = disparity == focus
    # 20 px, and what kernels and interpolation at half the resolution add.
    reach_px = 2 if focus == 1.0 else 32
    for axis in (0, 1):
        for _ in range(reach_px):
            in_focus = in_focus & np.roll(in_focus, 1, axis) & np.roll(in_focus, -1, axis)
    assert in_focus.mean() > 0.05
    np.testing.assert_allclose(seen[in_focus], image[in_focus], atol=2e-4)


@jax.jit
def slopes_of_error(camera, image, disparity, truth):
    """Mean square away from the border, and its slope; camera is (blur in px, focus disparity)."""

    def mean_square(camera):
        lens = Lens(camera[1], camera[0])
        picture = render_defocus(image, disparity, lens, max_radius_px=14.0)
        return jnp.mean((picture - truth)[24:-24, 24:-24] ** 2)

    return jax.value_and_grad(mean_square)(camera)


@pytest.mark.parametrize("name", ["slanted_plane", "two_layer_blob"])
def test_descent_finds_blur_and_focus_of_a_traced_photograph(name):
    scene = load(name)
    pair = (jnp.float32(scene[key][192:320]) for key in ("image", "disparity", "truth_0.5"))
    camera, _ = descend(slopes_of_error, [17.0, 0.54], [10.0, 0.2], *pair)
    np.testing.assert_allclose(camera, [float(scene["blur"]), 0.5], rtol=0.01)
