"""Refocus a photograph with a trained checkpoint.

    refocuser = Refocuser.released()             # or .from_checkpoint("runs/demo")
    result = refocuser(image, focus=(0.4, 0.6), blur=0.08, disparity=disparity)

The network works at the size it was trained at, on tiles of the photograph or on the whole of it:

    'tiles'   out = G + up(x̂ − g)   with disparity; tiles of the trained size, `network_tiles`
    'whole'   out = G + up(x̂ − g)   with disparity; the photograph resized to about the trained size
              out = up(x̂)           without (its aspect ratio is kept: RoPE takes any)

G is the lens blur at full size, g the same at working size. With disparity the picture therefore
keeps its full resolution, and what the network adds (sharpness that was lost, hidden background)
comes at the working size: for tiles the full size, or the largest at which the blur is one that the
network was trained with. Without disparity the whole is needed to find what is to be sharp, and the
result is as fine as the working size, no finer.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bokeh_jax import diffusion
from bokeh_jax.config import ExperimentConfig
from bokeh_jax.errors import InvalidInput
from bokeh_jax.inference import network_folder, network_tiles
from bokeh_jax.inference.photo_file import resize
from bokeh_jax.inference.request import Request, TakenWith, check_request, radius_bound
from bokeh_jax.models import Conditions
from bokeh_jax.models.codec import decode
from bokeh_jax.objectives import (
    build_conditions,
    encode_conditions,
    make_predictor,
    sample_refocused,
    start_of_flow,
)
from bokeh_jax.optics import Lens, srgb_to_linear
from bokeh_jax.simulation import disparity_at
from bokeh_jax.training.frozen import load_task
from bokeh_jax.training.rng import example_keys, step_key

PyTree = Any
Detail = Literal["tiles", "whole"]
# Tiles a call of the network.
TILE_BATCH = 16
# Seed, solver steps and guidance scale; None takes the checkpoint's own.
_Sampling = tuple[int, int | None, float | None]
_OnStep = Callable[[int, int], None] | None


@dataclasses.dataclass(frozen=True)
class Refocused:
    """Result of one call.

    Attributes:
        image: sRGB-encoded [0, 1], the size of the input.
        working_size_px: (height, width) at which the network worked.
        full_resolution: the lens blur acted at the photograph's own size.
        num_tiles: that the network was asked about; 1 for the whole picture.
    """

    image: Float[np.ndarray, "h w 3"]
    working_size_px: tuple[int, int]
    full_resolution: bool
    num_tiles: int = 1


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
        """Loads the newest (or the given) checkpoint of a run, or a folder of `network_folder`.

        Raises:
            InvalidInput: no checkpoint there, or of another task, or the frozen parameters it was
                trained with are not where its config says.
        """
        if network_folder.is_network_folder(Path(workdir)):
            return cls(*network_folder.read_network(Path(workdir)))
        return cls(*load_task(workdir, "refocus", step, use_ema=use_ema))

    @classmethod
    def released(cls) -> "Refocuser":
        """The small network that comes with the package; its model card lies beside it."""
        return cls.from_checkpoint(network_folder.RELEASED)

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
        detail: Detail = "tiles",
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
            detail: how the network looks at it, see the module's header. Tiles need disparity, a
                network with the guide, and a photograph no smaller than a tile; else it is 'whole'.
            on_step: told (steps done, steps in all) after every solver step, or of tiles after
                every batch of them.

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
        ask = Request(pixels, focus, blur, disparity, taken_with)
        if detail == "tiles" and disparity is not None and self.config.objective.guide:
            tile_px = self.config.simulation.size_px
            scale = network_tiles.working_scale(
                pixels.shape[:2],
                max(blur, taken.blur),
                tile_px=tile_px,
                blur_fraction_max=self.config.simulation.cameras.blur_fraction_max,
            )
            if scale is not None:
                size = network_tiles.scaled_size(pixels.shape[:2], scale, tile_px)
                return self._by_tiles(ask, size, (seed, num_steps, guidance_scale), on_step)
        return self._at_once(ask, (seed, num_steps, guidance_scale), on_step)

    def _at_once(self, ask: Request, sampling: _Sampling, on_step: _OnStep) -> Refocused:
        """The whole photograph, made about as small as what was trained."""
        height_px, width_px, _ = ask.pixels.shape
        size = working_size(
            height_px,
            width_px,
            self.config.simulation.size_px,
            self.config.model.patch_size * self.config.codec.downsampling,
        )
        small, small_disparity = ask.resized(size)
        taken = ask.taken
        conditions = _conditions(
            srgb_to_linear(jnp.asarray(small[None])),
            jnp.asarray(small_disparity[None]),
            jnp.full((1,), 0.0 if ask.disparity is None else 1.0),
            jnp.asarray([ask.focus], jnp.float32),
            jnp.full((1,), ask.blur * size[1], jnp.float32),
            jnp.asarray([taken.focus], jnp.float32),
            jnp.full((1,), taken.blur * size[1], jnp.float32),
            jnp.full((1,), float(ask.taken_with is not None)),
            max_radius_px=radius_bound(ask.blur, size[1]),
            guide=self.config.objective.guide,
        )
        encoded = self._encoded(self.params, conditions)
        keys = example_keys(step_key(sampling[0], "inference", 0), 1)
        sample = self._decoded(self.params, self._sample(encoded, keys, sampling, on_step))
        full_resolution = ask.disparity is not None and self.config.objective.guide
        if full_resolution:
            correction = np.asarray(sample - conditions.guess)[0] / 2.0
            answer = ask.lens_blur() + resize(correction, height_px, width_px)
        else:
            answer = resize(np.asarray(sample)[0] / 2.0 + 0.5, height_px, width_px)
        return Refocused(np.clip(answer, 0.0, 1.0), size, full_resolution)

    def _by_tiles(
        self, ask: Request, size: tuple[int, int], sampling: _Sampling, on_step: _OnStep
    ) -> Refocused:
        """Tile by tile, at a size at which the blur is one that was trained."""
        height_px, width_px, _ = ask.pixels.shape
        blurred = ask.lens_blur()
        guess = blurred
        small, small_disparity = ask.resized(size)
        if size != (height_px, width_px):
            guess = dataclasses.replace(ask, pixels=small, disparity=small_disparity).lens_blur()
        at = network_tiles.corners(size, self.config.simulation.size_px)
        root = step_key(sampling[0], "inference", 0)
        keys = example_keys(root, -(-len(at) // TILE_BATCH) * TILE_BATCH)
        corrections = []
        for start in range(0, len(at), TILE_BATCH):
            # All batches have one shape; the last is filled up.
            which = np.minimum(np.arange(start, start + TILE_BATCH), len(at) - 1)
            batch = network_tiles.conditions(
                ask, small, small_disparity, guess, at[which], self.config.simulation.size_px
            )
            encoded = self._encoded(self.params, batch)
            latents = self._sample(encoded, keys[start : start + TILE_BATCH], sampling, None)
            sample = self._decoded(self.params, latents)
            corrections.append(np.asarray(sample - batch.guess) / 2.0)
            if on_step is not None:
                on_step(min(start + TILE_BATCH, len(at)), len(at))
        tiles = np.concatenate(corrections)[: len(at)]
        correction = network_tiles.blend(tiles, at, size)
        if size != (height_px, width_px):
            correction = resize(correction, height_px, width_px)
        return Refocused(np.clip(blurred + correction, 0.0, 1.0), size, True, len(at))

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
        keys: jax.Array,
        sampling: _Sampling,
        on_step: _OnStep,
    ) -> jax.Array:
        sampler, objective = self.config.sampler, self.config.objective
        _, num_steps, guidance_scale = sampling
        total = sampler.num_steps if num_steps is None else num_steps
        scale = sampler.guidance_scale if guidance_scale is None else guidance_scale
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
            on_step(index, total)
        return answer
