"""Focus and blur of real photographs, found by descent, where their folder is at hand.

A macro focal stack: seven photographs of a circuit board, focused from near to far by turning the
lens. Nobody measured its depth, so all that is known of a photograph is its place in the order of
the stack. Each one is left out in turn: disparity and the all-in-focus image are made of the six
others, so that they cannot hold its answer, and its focus must be found between its neighbours'.
The first and the last have a neighbour on one side only and cannot be left out.
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from camera_search import descend
from PIL import Image

from bokeh_jax.optics import Lens, all_in_focus, linear_to_srgb, render_defocus, srgb_to_linear

FOLDER = Path(__file__).parents[2].parent / "shared" / "data" / "focus_stack_pcb"
COUNT = 7
# The frame is aligned at twice the size at which it is worked on, so that warping blurs less.
WIDTH_PX = 256
BORDER_PX = 8
MAX_RADIUS_PX = 5.0

pytestmark = [
    pytest.mark.long,
    pytest.mark.optimised,
    pytest.mark.skipif(
        not FOLDER.is_dir(), reason=f"no real focal stack in {FOLDER.parent.name}/{FOLDER.name}"
    ),
]


def read(path):
    """A photograph of twice the working width, in linear light."""
    with Image.open(path) as picture:
        picture.draft("RGB", (4 * WIDTH_PX, 3 * WIDTH_PX))
        encoded = np.asarray(picture.convert("RGB"), np.float32) / 255
    return halved(srgb_to_linear(jnp.asarray(encoded)), picture.size[0] // (2 * WIDTH_PX))


def halved(image, factor=2):
    height, width = image.shape[0] // factor, image.shape[1] // factor
    return image.reshape(height, factor, width, factor, -1).mean(axis=(1, 3))


def smooth(planes, times):
    """Binomial mean along the last two axes, edges replicated."""
    for _ in range(times):
        for axis in (-2, -1):
            width = [(0, 0)] * planes.ndim
            width[axis] = (1, 1)
            padded = jnp.pad(planes, width, mode="edge")
            part = partial(jax.lax.slice_in_dim, padded, axis=axis)
            size = planes.shape[axis]
            planes = (part(0, size) + 2 * part(1, size + 1) + part(2, size + 2)) / 4
    return planes


def warp(plane, pose):
    """Magnify about the middle by exp(pose[0]) and move by pose[1:], in shares of the width."""
    height, width = plane.shape
    middle = jnp.float32([[height - 1], [width - 1]]) / 2
    places = jnp.float32(np.indices(plane.shape)).reshape(2, -1)
    places = (places - middle) * jnp.exp(pose[0]) + middle + width * pose[2:0:-1, None]
    values = jax.scipy.ndimage.map_coordinates(plane, list(places), order=1, mode="nearest")
    return values.reshape(plane.shape)


warp_colors = jax.jit(jax.vmap(warp, in_axes=(-1, None), out_axes=-1))


def newton_step(error, unknown, damping):
    """One damped step of Gauss and Newton, and the mean square that it starts from."""
    value, slope_along = jax.linearize(error, unknown)
    slopes = jax.vmap(slope_along)(jnp.eye(len(unknown)))
    curvature = slopes @ slopes.T
    curvature += damping * jnp.diag(jnp.diag(curvature))
    return unknown - jnp.linalg.solve(curvature, slopes @ value), jnp.mean(value**2)


@jax.jit
def align(plane, fixed, pose):
    """The pose in which a photograph lies on its neighbour: refocusing changes magnification."""
    for times in (12, 2):
        blurred, target = smooth(jnp.stack([plane, fixed]), times)

        def step(_, pose, blurred=blurred, target=target):
            return newton_step(lambda p: inside(warp(blurred, p) - target).ravel(), pose, 0.0)[0]

        pose = jax.lax.fori_loop(0, 8, step, pose)
    return pose


def aligned_stack():
    """The seven photographs on the middle one's frame, and their poses; near focus first."""
    photographs = [read(FOLDER / f"pcb_{k + 1:03}.jpg") for k in range(COUNT)]
    planes = [jnp.sqrt(halved(p).mean(axis=-1, keepdims=True)) for p in photographs]
    middle = COUNT // 2
    poses = [jnp.zeros(3)] * COUNT
    for order in (range(middle - 1, -1, -1), range(middle + 1, COUNT)):
        for k in order:
            neighbour = k + 1 if k < middle else k - 1
            placed = warp_colors(planes[neighbour], poses[neighbour])[..., 0]
            poses[k] = align(planes[k][..., 0], placed, poses[neighbour])
    aligned = [
        inside(halved(warp_colors(photograph, pose)))
        for photograph, pose in zip(photographs, poses, strict=True)
    ]
    return jnp.stack(aligned), np.asarray(poses)


@jax.jit
def disparity_of(stack, places):
    """Where each pixel is sharpest: the peak of a parabola through the logarithm of sharpness."""
    light = jnp.pad(jnp.sqrt(stack.mean(axis=-1)), ((0, 0), (1, 1), (1, 1)), mode="edge")
    here = 2 * light[:, 1:-1, 1:-1]
    sharpness = jnp.abs(here - light[:, :-2, 1:-1] - light[:, 2:, 1:-1])
    sharpness += jnp.abs(here - light[:, 1:-1, :-2] - light[:, 1:-1, 2:])
    sharpness = smooth(sharpness, 4)
    best = jnp.argmax(sharpness, axis=0)
    middle = jnp.clip(best, 1, len(stack) - 2)
    three = jnp.stack([middle - 1, middle, middle + 1])
    x = jnp.float32(places)[three]
    y = jnp.take_along_axis(jnp.log(sharpness + 1e-3), three, axis=0)
    rise = jnp.diff(y, axis=0) / jnp.diff(x, axis=0)
    bend = jnp.minimum((rise[1] - rise[0]) / (x[2] - x[0]), -1e-6)
    # The first and the last photograph have no parabola.
    peak = jnp.where(
        best == middle, (x[0] + x[1]) / 2 - rise[0] / (2 * bend), jnp.float32(places)[best]
    )
    # Flat parts know nothing and take their surroundings' place.
    trust = (sharpness.max(axis=0) - sharpness.min(axis=0)) ** 2 + 1e-7
    return smooth(peak * trust, 4) / smooth(trust, 4)


def mean_square(camera, image, disparity, photograph):
    """Of the display values inside the border; camera is (focus disparity, blur in px)."""
    lens = Lens(camera[0], camera[1])
    picture = render_defocus(image, disparity, lens, max_radius_px=MAX_RADIUS_PX)
    return jnp.mean(inside(display(picture) - display(photograph)) ** 2)


slopes_of_error = jax.jit(jax.value_and_grad(mean_square))


def inside(picture):
    return picture[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX]


def display(picture):
    return linear_to_srgb(jnp.clip(picture, 0, 1))


def decibel(mean_square):
    return -10 * np.log10(float(mean_square))


def test_descent_finds_focus_and_blur_of_real_photographs_left_out_of_their_stack():
    stack, poses = aligned_stack()
    # Every turn towards the far magnifies less, so the files are in the order of their focus.
    assert np.all(np.diff(poses[:, 0]) < -0.002)
    places = np.linspace(1, 0, COUNT, dtype=np.float32)
    found = []
    for left_out in range(1, COUNT - 1):
        others = np.delete(np.arange(COUNT), left_out)
        image, disparity = all_in_focus(stack[others]), disparity_of(stack[others], places[others])
        pair = (image, disparity, stack[left_out])
        # In the wrong half of the scene, with little more than half of the blur.
        start = [0.3 if left_out <= COUNT // 2 else 0.7, 2.0]
        camera, square = descend(slopes_of_error, start, [0.2, 2.0], *pair)
        untouched = jnp.mean(inside(display(image) - display(stack[left_out])) ** 2)
        found.append((*camera.tolist(), decibel(square), decibel(untouched)))
    focus, blur_px, rendered, untouched = np.transpose(found)
    found_slice = (COUNT - 1) * (1 - focus)
    assert np.all(np.diff(found_slice) > 0.35)
    np.testing.assert_allclose(found_slice, np.arange(1, COUNT - 1), atol=0.45)
    # One lens took them all.
    np.testing.assert_allclose(blur_px, blur_px.mean(), rtol=0.15)
    assert rendered.min() > 31
    assert (rendered - untouched).min() > 6.5
