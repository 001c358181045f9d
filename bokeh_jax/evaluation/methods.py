"""What answers a refocusing question: the checkpoint, and what could be done without it.

    unchanged                the reference itself
    lens_blur                the reference blurred as if it were all in focus
    lens_blur_known_camera   only the blur that is missing is added
    deconvolved_known_camera the reference sharpened (`deconvolution`), then blurred
    two_stage                the checkpoint asked for all in focus, its answer blurred
    two_stage_known_camera   the same, told the reference's camera
    model                    the checkpoint, told disparity and the asked camera
    model_known_camera       the same, told the reference's camera too

All blur with the disparity that they are told. Methods whose name does not end in `_known_camera`
do not know the lens that the reference was taken with.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from bokeh_jax.config import ExperimentConfig
from bokeh_jax.evaluation.deconvolution import deconvolve
from bokeh_jax.objectives import from_model_range, refocus_pairs, to_model_range
from bokeh_jax.optics import Lens
from bokeh_jax.simulation import Pairs, physics_guess

PyTree = Any
Told = dict[str, Any]
Pictures = dict[str, Float[Array, "b m h w 3"]]

NAMES = {
    "unchanged": "input unchanged",
    "lens_blur": "lens blur, as if all in focus",
    "lens_blur_known_camera": "lens blur, missing blur only",
    "deconvolved_known_camera": "deconvolved, then lens blur",
    "two_stage": "two stages: model’s all in focus, lens blur",
    "two_stage_known_camera": "two stages, told the reference’s camera",
    "model": "model",
    "model_known_camera": "model, told the reference’s camera",
}
METHODS = tuple(NAMES)
KNOWN_CAMERA = tuple(name for name in METHODS if name.endswith("_known_camera"))
UNTRAINED = ("unchanged", "lens_blur", "lens_blur_known_camera", "deconvolved_known_camera")
# What each model is compared with: what could be done with the same knowledge, or less.
BASELINES = {
    "model": ("unchanged", "lens_blur", "two_stage"),
    "model_known_camera": (
        *("unchanged", "lens_blur", "lens_blur_known_camera"),
        *("deconvolved_known_camera", "two_stage_known_camera"),
    ),
}


# Without disparity nobody can blur, and a lens says nothing.
WITHOUT_DISPARITY = ("unchanged", "model")


def to_display(values: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Model range to sRGB-encoded [0, 1], as a file would hold it."""
    return jnp.clip(0.5 * (values + 1.0), 0.0, 1.0)


def _all_in_focus(pairs: Pairs) -> Pairs:
    """The same question for one target that is sharp everywhere."""
    asked = pairs.cameras.targets
    sharp = Lens(focus_disparity=asked.focus_disparity[:, :1], blur_px=0.0 * asked.blur_px[:, :1])
    cameras = dataclasses.replace(
        pairs.cameras, targets=sharp, focus_points=pairs.cameras.focus_points[:, :1]
    )
    return dataclasses.replace(
        pairs, cameras=cameras, targets=pairs.targets[:, :1], weights=pairs.weights[:, :1]
    )


def untrained_answers(pairs: Pairs, *, max_radius_px: float) -> Pictures:
    """The methods without a network, in linear light; targets of `pairs` are not looked at."""
    count = pairs.targets.shape[1]

    def per_target(value: Array) -> Array:
        return jnp.repeat(value[:, None], count, axis=1)

    reference, disparity = per_target(pairs.reference), per_target(pairs.disparity)
    lens = jax.tree.map(per_target, pairs.cameras.reference)
    # Not taken from the network's conditions: runs without the guide are compared with it too.
    answers = {"unchanged": reference}
    for name, known in (("lens_blur", 0.0), ("lens_blur_known_camera", 1.0)):
        answers[name] = physics_guess(
            reference,
            disparity,
            pairs.cameras.targets,
            max_radius_px=max_radius_px,
            reference_lens=lens,
            reference_camera_given=jnp.full(reference.shape[:2], known),
        )
    sharp = deconvolve(
        pairs.reference,
        pairs.cameras.reference.signed_radius_px(pairs.disparity),
        max_radius_px=max_radius_px,
    )
    answers["deconvolved_known_camera"] = _blurred(sharp, pairs, max_radius_px)
    return answers


def _blurred(sharp: Float[Array, "b h w 3"], pairs: Pairs, max_radius_px: float) -> Array:
    """What is taken for all in focus, blurred by every asked camera."""
    count = pairs.targets.shape[1]
    return physics_guess(
        jnp.repeat(sharp[:, None], count, axis=1),
        jnp.repeat(pairs.disparity[:, None], count, axis=1),
        pairs.cameras.targets,
        max_radius_px=max_radius_px,
    )


def make_methods(config: ExperimentConfig) -> Callable[..., Pictures]:
    """(params, pairs, keys, told, disparity_given) -> the answers of all `METHODS` and the truth.

    Pure, to be compiled. Pictures are [b, m, h, w, 3], sRGB-encoded in [0, 1]. `disparity_given` is
    1 or 0 a scene, of the networks alone: without disparity nothing else has an answer that means
    something.
    """

    def sampled(pairs: Pairs, *told: Any, known: bool) -> Float[Array, "b m h w 3"]:
        params, keys, scenes_told, disparity_given = told
        return refocus_pairs(
            params,
            pairs,
            keys,
            model=config.model,
            objective=config.objective,
            max_radius_px=config.simulation.max_radius_px(pairs.disparity.shape[2]),
            codec=config.codec,
            reference_camera_given=known,
            disparity_given=disparity_given,
            told=scenes_told,
            **dataclasses.asdict(config.sampler),
        )

    def answer(
        params: PyTree,
        pairs: Pairs,
        keys: Key[Array, " b"],
        told: Told,
        disparity_given: Float[Array, " b"] | None = None,
    ) -> Pictures:
        max_radius_px = config.simulation.max_radius_px(pairs.disparity.shape[2])
        linear = untrained_answers(pairs, max_radius_px=max_radius_px)
        found = {name: to_display(to_model_range(image)) for name, image in linear.items()}
        for suffix, known in (("", False), ("_known_camera", True)):
            given = (params, keys, told, disparity_given)
            sharp = sampled(_all_in_focus(pairs), *given, known=known)[:, 0]
            # No file holds more than white, nor does what a second program reads from it.
            blurred = _blurred(from_model_range(jnp.clip(sharp, -1.0, 1.0)), pairs, max_radius_px)
            found[f"two_stage{suffix}"] = to_display(to_model_range(blurred))
            found[f"model{suffix}"] = to_display(sampled(pairs, *given, known=known))
        return {
            **{name: found[name] for name in METHODS},
            "truth": to_display(to_model_range(pairs.targets)),
        }

    return answer
