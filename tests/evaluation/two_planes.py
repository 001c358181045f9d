"""A textured square in front of a textured wall, and the photographs that lenses take of it."""

import functools

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from bokeh_jax.optics import Lens, linear_to_srgb, render_layers, srgb_to_linear

NEAR, FAR = 0.8, 0.2
ASKED_BLUR_PX = 6.0
# |K (NEAR − FAR)|: radius of the plane that is not in focus.
ASKED_RADIUS_PX = 3.6
HEIGHT_PX, WIDTH_PX = 56, 64


@functools.cache
def all_in_focus():
    noise = np.random.default_rng(0).uniform(size=(HEIGHT_PX, WIDTH_PX, 3))
    return np.clip(1.5 * cv2.GaussianBlur(noise, (0, 0), 0.7) - 0.25, 0, 1).astype(np.float32)


@functools.cache
def disparity():
    values = np.full((HEIGHT_PX, WIDTH_PX), FAR, np.float32)
    values[14:44, 16:50] = NEAR
    return values


@jax.jit
def _photograph(focus, blur_px):
    color = srgb_to_linear(jnp.asarray(all_in_focus()))
    opacity = jnp.asarray([disparity() == NEAR, np.ones((HEIGHT_PX, WIDTH_PX))], jnp.float32)
    layers = jnp.concatenate([jnp.stack([color, color]), opacity[..., None]], axis=-1)
    planes = jnp.asarray([[0.0, 0.0, NEAR], [0.0, 0.0, FAR]])
    light = render_layers(layers, planes, Lens(focus, blur_px), max_radius_px=8)
    return linear_to_srgb(light)


@functools.cache
def photograph(focus=NEAR, blur_px=ASKED_BLUR_PX):
    """sRGB, [h, w, 3]."""
    return np.asarray(_photograph(jnp.float32(focus), jnp.float32(blur_px)))
