"""Refocus a photograph with a trained checkpoint.

    refocuser = Refocuser.from_checkpoint("runs/demo")
    result = refocuser(image, focus=(0.4, 0.6), blur=0.08, disparity=disparity)

The network works at the size it was trained at; a larger photograph is resized to about that many
pixels (its aspect ratio kept, RoPE takes any) and the answer is brought back:

    with disparity     out = G + up(x̂ − g)    G: the lens blur at full size, g: at working size
    without            out = up(x̂)

With disparity the picture therefore keeps its full resolution, and what the network adds (sharpness
that was lost, hidden background) comes at the working size. Without, the result is as fine as the
working size, no finer.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bokeh_jax import diffusion
from bokeh_jax.config import ExperimentConfig
from bokeh_jax.errors import InvalidInput
from bokeh_jax.inference.lens_photo import PhotoSettings, photograph
from bokeh_jax.inference.photo_file import resize
from bokeh_jax.models import Conditions
from bokeh_jax.models.codec import decode
from bokeh_jax.objectives import (
    build_conditions,
    encode_conditions,
    make_predictor,
    sample_refocused,
    start_of_flow,
)
from bokeh_jax.optics import Aperture, Disc, Lens, srgb_to_linear
from bokeh_jax.simulation import disparity_at, missing_radius_px
from bokeh_jax.training import checkpoint
from bokeh_jax.training.frozen import load_network
from bokeh_jax.training.rng import example_keys, step_key

PyTree = Any


@dataclasses.dataclass(frozen=True)
class TakenWith:
    """How a photograph was taken, where that is known.

    Attributes:
        focus: (x, y) in [0, 1], a point that is sharp.
        blur: K / width; 0 where everything is sharp.
    """

    focus: tuple[float, float] = (0.5, 0.5)
    blur: float = 0.0


@dataclasses.dataclass(frozen=True)
class Refocused:
    """Result of one call.

    Attributes:
        image: sRGB-encoded [0, 1], the size of the input.
        working_size_px: (height, width) at which the network worked.
        full_resolution: the lens blur acted at the photograph's own size.
    """

    image: Float[np.ndarray, "h w 3"]
    working_size_px: tuple[int, int]
    full_resolution: bool


def check_request(
    image: np.ndarray, focus: tuple[float, float], blur: float, disparity: np.ndarray | None
) -> None:
    """Refuses what cannot be refocused.

    Raises:
        InvalidInput: focus outside [0, 1], blur negative or not finite, image or disparity of a
            wrong shape or with NaN.
    """
    if image.ndim != 3 or image.shape[2] != 3 or not np.isfinite(image).all():
        raise InvalidInput(
            f"image has shape {image.shape}; allowed: finite values [height, width, 3]"
        )
    if len(focus) != 2 or not all(0.0 <= value <= 1.0 for value in focus):
        raise InvalidInput(f"focus is {focus}; allowed: x,y each from 0 (left, top) to 1")
    if not (math.isfinite(blur) and blur >= 0.0):
        raise InvalidInput(
            f"blur is {blur}; allowed: 0 or more, in image widths of blur radius per unit disparity"
        )
    if disparity is None:
        return
    if disparity.shape != image.shape[:2]:
        raise InvalidInput(
            f"disparity has shape {disparity.shape}; allowed: that of the image, {image.shape[:2]}"
        )
    if not np.isfinite(disparity).all():
        raise InvalidInput(
            "disparity holds NaN or infinite values; allowed: finite values in [0, 1]"
        )
    if disparity.min() < 0.0 or disparity.max() > 1.0:
        raise InvalidInput(
            f"disparity spans {disparity.min():g} to {disparity.max():g}; allowed: relative values "
            "in [0, 1], nearer is larger"
        )


def working_size(height_px: int, width_px: int, size_px: int, patch_px: int) -> tuple[int, int]:
    """About size_px² pixels in the photograph's aspect ratio, both sides multiples of the patch."""
    scale = size_px / math.sqrt(height_px * width_px)
    height, width = (max(1, round(side * scale / patch_px)) for side in (height_px, width_px))
    return height * patch_px, width * patch_px


@functools.partial(jax.jit, static_argnames=("max_radius_px", "guide"))
def _conditions(
    reference: jax.Array,
    disparity: jax.Array,
    disparity_given: jax.Array,
    focus: jax.Array,
    blur_px: jax.Array,
    taken_focus: jax.Array,
    taken_blur_px: jax.Array,
    taken_given: jax.Array,
    *,
    max_radius_px: float,
    guide: bool,
) -> Conditions:
    focus_disparity = disparity_at(disparity[0], focus)
    lens = Lens(focus_disparity=focus_disparity, blur_px=blur_px)
    return build_conditions(
        reference,
        disparity,
        lens,
        focus,
        disparity_given=disparity_given,
        camera_given=jnp.ones(1),
        reference_lens=Lens(
            focus_disparity=disparity_at(disparity[0], taken_focus), blur_px=taken_blur_px
        ),
        reference_camera_given=taken_given,
        guide=guide,
        max_radius_px=max_radius_px,
    )


@dataclasses.dataclass(frozen=True)
class Refocuser:
    """A trained network, ready for photographs. Make one with `from_checkpoint`."""

    config: ExperimentConfig
    params: PyTree
    step: int

    @classmethod
    def from_checkpoint(
        cls, workdir: str | Path, *, step: int | None = None, use_ema: bool = True
    ) -> "Refocuser":
        """Loads the newest (or the given) checkpoint of a run.

        Raises:
            InvalidInput: no checkpoint there, or of another task, or the frozen parameters it was
                trained with are not where its config says.
        """
        found = checkpoint.existing_step(workdir, step)
        config = checkpoint.load_config(workdir, found)
        if config.task != "refocus":
            raise InvalidInput(f"{workdir} is a run with task={config.task!r}; allowed: 'refocus'")
        return cls(config, load_network(config, workdir, found, use_ema=use_ema), found)

    def __call__(
        self,
        image: np.ndarray,
        *,
        focus: tuple[float, float],
        blur: float,
        disparity: np.ndarray | None = None,
        taken_with: TakenWith | None = None,
        seed: int = 0,
        num_steps: int | None = None,
        guidance_scale: float | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Refocused:
        """Refocuses one photograph.

        Args:
            image: sRGB-encoded, uint8 [0, 255] or float [0, 1], [h, w, 3].
            focus: (x, y) in [0, 1], the point to be sharp.
            blur: K / width: blur radius per unit disparity, in image widths; 0 asks for all in
                focus.
            disparity: relative [0, 1], nearer is larger, [h, w]; None where unknown.
            taken_with: the photograph's own focus and blur, None where unknown; `TakenWith()` of
                one that is sharp everywhere. A blur above 0 says nothing without disparity.
            seed: of the flow's noise.
            num_steps: solver steps; None takes the checkpoint's own.
            guidance_scale: None takes the checkpoint's own.
            on_step: told (steps done, steps in all) after every solver step.

        Raises:
            InvalidInput: what `check_request` refuses.
        """
        scale = 255.0 if image.dtype == np.uint8 else 1.0
        pixels = image.astype(np.float32) / np.float32(scale)
        check_request(pixels, focus, blur, disparity)
        taken = taken_with or TakenWith()
        check_request(pixels, taken.focus, taken.blur, None)
        if taken.blur and disparity is None:
            raise InvalidInput(
                f"taken_with has blur {taken.blur:g} without disparity; allowed: with it, or blur 0"
            )
        height_px, width_px, _ = pixels.shape
        size = working_size(
            height_px,
            width_px,
            self.config.simulation.size_px,
            self.config.model.patch_size * self.config.codec.downsampling,
        )
        small = np.clip(resize(pixels, *size), 0.0, 1.0)
        known = np.zeros(size, np.float32) if disparity is None else disparity.astype(np.float32)
        # Bilinear resizing of values in [0, 1] may pass the ends by a rounding.
        small_disparity = np.clip(resize(known, *size), 0.0, 1.0)
        conditions = _conditions(
            srgb_to_linear(jnp.asarray(small[None])),
            jnp.asarray(small_disparity[None]),
            jnp.full((1,), 0.0 if disparity is None else 1.0),
            jnp.asarray([focus], jnp.float32),
            jnp.full((1,), blur * size[1], jnp.float32),
            jnp.asarray([taken.focus], jnp.float32),
            jnp.full((1,), taken.blur * size[1], jnp.float32),
            jnp.full((1,), float(taken_with is not None)),
            max_radius_px=_radius_bound(blur, size[1]),
            guide=self.config.objective.guide,
        )
        encoded = self._encoded(self.params, conditions)
        latents = self._sample(encoded, seed, num_steps, guidance_scale, on_step)
        sample = self._decoded(self.params, latents)
        full_resolution = disparity is not None and self.config.objective.guide
        if disparity is not None and full_resolution:
            correction = np.asarray(sample - conditions.guess)[0] / 2.0
            answer = lens_blur(pixels, disparity, focus, blur, taken_with=taken_with)
            answer = answer + resize(correction, height_px, width_px)
        else:
            answer = resize(np.asarray(sample)[0] / 2.0 + 0.5, height_px, width_px)
        return Refocused(np.clip(answer, 0.0, 1.0), size, full_resolution)

    @functools.cached_property
    def _encoded(self) -> Callable[[PyTree, Conditions], Conditions]:
        def encoded(params: PyTree, conditions: Conditions) -> Conditions:
            config = self.config
            return encode_conditions(
                conditions,
                conditions.reference,
                params,
                codec=config.codec,
                guide=config.objective.guide,
            )

        return jax.jit(encoded)

    @functools.cached_property
    def _sampled(self) -> Callable[..., jax.Array]:
        """All steps in one program, for every photograph of a shape; nobody looks on."""

        def sampled(
            params: PyTree, conditions: Conditions, keys: jax.Array, num_steps: int, scale: float
        ) -> jax.Array:
            return sample_refocused(
                params,
                conditions,
                keys,
                model=self.config.model,
                objective=self.config.objective,
                method=self.config.sampler.method,
                num_steps=num_steps,
                guidance_scale=scale,
            )

        return jax.jit(sampled, static_argnames=("num_steps", "scale"))

    @functools.cached_property
    def _decoded(self) -> Callable[[PyTree, jax.Array], jax.Array]:
        return jax.jit(functools.partial(decode, self.config.codec))

    def _sample(
        self,
        conditions: Conditions,
        seed: int,
        num_steps: int | None,
        guidance_scale: float | None,
        on_step: Callable[[int, int], None] | None,
    ) -> jax.Array:
        sampler, objective = self.config.sampler, self.config.objective
        total = sampler.num_steps if num_steps is None else num_steps
        scale = sampler.guidance_scale if guidance_scale is None else guidance_scale
        keys = example_keys(step_key(seed, "inference", 0), 1)
        if on_step is None:
            return self._sampled(self.params, conditions, keys, num_steps=total, scale=scale)
        predictor = make_predictor(
            self.params,
            conditions,
            model=self.config.model,
            objective=objective,
            guidance_scale=scale,
        )
        states = diffusion.iterate_samples(
            jax.jit(predictor),
            start_of_flow(conditions, keys, objective),
            diffusion.time_grid(total),
            method=sampler.method,
            prediction=objective.prediction,
        )
        answer = conditions.reference
        for index, state in enumerate(states, start=1):
            answer = state
            if on_step is not None:
                on_step(index, total)
        return answer


def _radius_bound(blur: float, width_px: int) -> float:
    """Static bound of the radius: |d − d_f| is at most 1. Rounded up so that few shapes compile."""
    return float(max(1, math.ceil(blur * width_px)))


def lens_blur(
    pixels: Float[np.ndarray, "h w 3"],
    disparity: np.ndarray,
    focus: tuple[float, float],
    blur: float,
    *,
    aperture: Aperture = Disc(),
    taken_with: TakenWith | None = None,
) -> Float[np.ndarray, "h w 3"]:
    """The lens blur of a whole photograph at its own size.

    Args:
        pixels: sRGB-encoded, [0, 1].
        disparity: relative [0, 1], [h, w].
        focus: (x, y) of the point to be sharp.
        blur: K / width.
        aperture: shape of the opening.
        taken_with: of the photograph; only the blur that it lacks is added. None blurs it as if it
            were sharp everywhere.

    Returns:
        sRGB-encoded, [0, 1].
    """
    width_px = pixels.shape[1]
    known = jnp.asarray(disparity, jnp.float32)

    def lens_of(focus: tuple[float, float], blur: float) -> Lens:
        plane = disparity_at(known, jnp.asarray([focus], jnp.float32))[0]
        return Lens(focus_disparity=plane, blur_px=jnp.float32(blur * width_px))

    lens = lens_of(focus, blur)
    if taken_with is not None and taken_with.blur:
        present_px = lens_of(taken_with.focus, taken_with.blur).signed_radius_px(known)
        # The radius map itself plays the disparity's part: K = 1 px per px, focus at 0.
        disparity = np.asarray(missing_radius_px(lens.signed_radius_px(known), present_px))
        lens = Lens(focus_disparity=0.0, blur_px=1.0)
    return photograph(
        pixels,
        disparity,
        lens,
        PhotoSettings(aperture=aperture),
        max_radius_px=_radius_bound(blur, width_px),
    )
