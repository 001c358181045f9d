"""Against ray-traced photographs of 512 x 512 pixels, where their folder is at hand.

`make test` has small scenes that are traced there and then (test_ray_traced_scenes.py).
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bokeh_jax.optics import (
    Lens,
    composite_layers,
    encode_gamma,
    render_defocus,
    render_layers,
    visible_disparity,
)

FOLDER = Path(__file__).parents[2].parent / "shared" / "lens_blur_truth"
TWO_LAYERS = ("two_layer_blob", "two_layer_star", "two_layer_thin")
MAX_RADIUS_PX = 20.0

pytestmark = [
    pytest.mark.long,
    pytest.mark.optimised,
    pytest.mark.skipif(
        not FOLDER.is_dir(), reason=f"no ray-traced truth in {FOLDER.parent.name}/{FOLDER.name}"
    ),
]

photograph = jax.jit(render_defocus, static_argnames="max_radius_px")
photograph_layers = jax.jit(render_layers, static_argnames=("max_radius_px", "margin_px"))


def load(name):
    with np.load(FOLDER / f"{name}.npz") as data:
        return {key: data[key] for key in data.files}


def layers_of(scene):
    rgba = np.concatenate([scene["layer_rgb"], scene["layer_alpha"][..., None]], axis=-1)
    return jnp.float32(rgba), jnp.float32(scene["layer_disparity"])


def decibel(picture, truth, crop_px=24):
    """PSNR of display-encoded values, away from the border."""
    inner = slice(crop_px, -crop_px)
    error = encoded(picture)[inner, inner] - encoded(truth)[inner, inner]
    return -10 * np.log10(np.mean(error**2))


def encoded(picture):
    return np.asarray(encode_gamma(jnp.clip(jnp.float32(picture), 0, 1)))


def decibel_of_photograph(scene, focus, **options):
    picture = photograph(
        jnp.float32(scene["image"]),
        jnp.float32(scene["disparity"]),
        Lens(float(focus), float(scene["blur"])),
        max_radius_px=MAX_RADIUS_PX,
        **options,
    )
    return decibel(picture, scene[f"truth_{focus}"])


def test_photographs_with_depth_come_close_to_the_truth():
    scenes = [load(name) for name in TWO_LAYERS]
    for focus, least_decibel in ((1.0, 41.2), (0.0, 36.5), (0.5, 39.8)):
        mean = np.mean([decibel_of_photograph(scene, focus) for scene in scenes])
        assert mean > least_decibel, f"focus {focus}"


@pytest.mark.parametrize(("focus", "least_decibel"), [(0.5, 58.8), (0.0, 58.6)])
def test_a_slanted_surface_comes_close_to_the_truth(focus, least_decibel):
    assert decibel_of_photograph(load("slanted_plane"), focus) > least_decibel


def test_known_layers_come_closer_still():
    for focus, least_decibel in ((1.0, 72.5), (0.0, 75.2), (0.5, 43.2)):
        results = []
        for name in TWO_LAYERS:
            scene = load(name)
            picture = photograph_layers(
                *layers_of(scene),
                Lens(focus, float(scene["blur"])),
                max_radius_px=MAX_RADIUS_PX,
                margin_px=int(scene["margin"]),
            )
            results.append(decibel(picture, scene[f"truth_{focus}"]))
        assert np.mean(results) > least_decibel, f"focus {focus}"


def test_the_sharp_scene_is_the_layers_composite():
    for name in (*TWO_LAYERS, "slanted_plane"):
        scene = load(name)
        layers, planes = layers_of(scene)
        margin_px = int(scene["margin"])
        image = composite_layers(layers, margin_px=margin_px)
        # Stored in half precision.
        np.testing.assert_allclose(image, np.float32(scene["image"]), atol=1e-3)
        disparity = visible_disparity(layers[..., 3], planes, margin_px=margin_px)
        np.testing.assert_allclose(disparity, scene["disparity"], atol=1e-6)


def test_the_border_of_a_blurred_photograph_continues():
    scene = load("two_layer_blob")
    layers, _ = layers_of(scene)
    margin_px = int(scene["margin"])
    background = layers[1:].at[..., 3].set(1.0)
    lens = Lens(1.0, MAX_RADIUS_PX)
    truth = photograph_layers(
        background, jnp.zeros((1, 3)), lens, max_radius_px=MAX_RADIUS_PX, margin_px=margin_px
    )
    image = composite_layers(background, margin_px=margin_px)
    disparity = jnp.zeros(image.shape[:2])
    picture = photograph(image, disparity, lens, max_radius_px=MAX_RADIUS_PX)
    ring = np.ones(image.shape[:2], bool)
    ring[20:-20, 20:-20] = False
    error = encoded(picture) - encoded(truth)
    assert -10 * np.log10(np.mean(error[ring] ** 2)) > 40
    # Half of the resolution is enough for a radius of 20 px.
    assert -10 * np.log10(np.mean(error[~ring] ** 2)) > 60
