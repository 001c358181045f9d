"""Every method's answer to one question of a benchmark, at the question's own size.

The network answers as a user's photograph is answered (`Refocuser`): on tiles with disparity, on
the whole made small without, and its correction is added to the lens blur of the whole picture. The
other methods work at full size. Names are those of `methods`; a method that lacks what it needs has
no answer:

    without blur and point    only `unchanged`: nothing can be asked
    without disparity         `unchanged`, `model`; `model_known_camera` of what is sharp everywhere
    without reference lens    nothing that ends in `_known_camera`
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bokeh_jax.evaluation.deconvolution import deconvolve
from bokeh_jax.evaluation.questions import Question
from bokeh_jax.inference.refocuser import Refocuser
from bokeh_jax.inference.request import TakenWith, lens_blur
from bokeh_jax.optics import linear_to_srgb, srgb_to_linear
from bokeh_jax.simulation import disparity_at

Picture = Float[np.ndarray, "h w 3"]
Answers = dict[str, Picture]


def taken_with(question: Question) -> TakenWith | None:
    """How the photograph was taken, as far as a method may be told."""
    lens = question.reference
    if lens is None:
        return None
    blur = float(lens.blur_px) / question.frame[1]
    if blur == 0.0:
        return TakenWith()
    return None if question.reference_point is None else TakenWith(question.reference_point, blur)


def answer_question(
    question: Question, refocuser: Refocuser | None, *, blur: float | None = None
) -> Answers:
    """Answers by name, sRGB-encoded in [0, 1].

    Args:
        question: what is asked.
        refocuser: the network; None for the methods without one.
        blur: K / width to ask for where the question does not say; None to leave it unasked.
    """
    answers: Answers = {"unchanged": question.image}
    point = question.focus_point
    asked = blur if question.blur_fraction is None else question.blur_fraction
    if point is None or asked is None:
        return answers
    taken, disparity = taken_with(question), question.disparity
    if disparity is not None:
        answers["lens_blur"] = lens_blur(question.image, disparity, point, asked)
        if taken is not None:
            answers["lens_blur_known_camera"] = lens_blur(
                question.image, disparity, point, asked, taken_with=taken
            )
            sharp = sharpened(question.image, disparity, taken)
            answers["deconvolved_known_camera"] = lens_blur(sharp, disparity, point, asked)
    if refocuser is None:
        return answers
    known = {"": None} if taken is None else {"": None, "_known_camera": taken}
    for suffix, camera in known.items():
        if disparity is None and camera is not None and camera.blur:
            continue
        ask = functools.partial(
            refocuser, question.image, focus=point, disparity=disparity, taken_with=camera
        )
        answers[f"model{suffix}"] = ask(blur=asked).image
        if disparity is not None:
            sharp = ask(blur=0.0).image
            answers[f"two_stage{suffix}"] = lens_blur(sharp, disparity, point, asked)
    return answers


def sharpened(image: Picture, disparity: Float[np.ndarray, "h w"], taken: TakenWith) -> Picture:
    """The photograph deconvolved with its known radii; as it is where it is sharp everywhere."""
    width_px = image.shape[1]
    if taken.blur == 0.0:
        return image
    # In steps, so that few shapes compile.
    bound_px = 2.0 * max(1, math.ceil(0.5 * taken.blur * width_px))
    focus = np.asarray([taken.focus], np.float32)
    return np.asarray(
        _sharpened(image, disparity, focus, np.float32(taken.blur * width_px), bound_px)
    )


@functools.partial(jax.jit, static_argnames="bound_px")
def _sharpened(
    image: jax.Array, disparity: jax.Array, focus: jax.Array, blur_px: jax.Array, bound_px: float
) -> jax.Array:
    plane = disparity_at(disparity, focus)[0]
    radius_px = blur_px * (disparity - plane)
    light = srgb_to_linear(image[None])
    sharp = deconvolve(light, radius_px[None], max_radius_px=bound_px)
    return jnp.clip(linear_to_srgb(sharp[0]), 0.0, 1.0)
