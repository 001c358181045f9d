"""Text to a photograph: an image that is sharp everywhere, its depth, its focus, then a lens.

    generator = Generator.from_checkpoint("runs/generate", depth="runs/depth", focus="runs/focus")
    scene = generator.scene("a disc of brick before a backdrop of grass", seed=1)
    wide = scene.photograph(camera(f_number=1.8, focal_length_mm=50))
    deep = scene.photograph(camera(f_number=22, focal_length_mm=50))

The chain of "Fine-grained Defocus Blur Control" (arXiv 2510.06215):

    (1) A       = generator(prompt, seed)               sharp everywhere, knows nothing of the lens
    (2) d       = depth network(A)                      relative disparity, [0, 1]
    (3) δ, σ    = focus distance transformer(A, d, EXIF)
    (4) P       = lens blur(A, d; focus δ, K(EXIF, σ))  `optics.exif`, equation (2)

(1) to (3) are computed once; another aperture or focus is (4) alone, so what is shown cannot change
with them. δ and σ may be given in place of (3): a point of the image, or a distance in metres, for
which relative disparity 0 is taken to be infinitely far (`optics.exif`, equation (3)).
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32

from bokeh_jax.config import ExperimentConfig
from bokeh_jax.errors import InvalidInput
from bokeh_jax.inference.depth import DepthModel, estimate_disparity
from bokeh_jax.inference.lens_photo import PhotoSettings, largest_radius_px, photograph
from bokeh_jax.inference.request import radius_bound
from bokeh_jax.models import focus_transformer
from bokeh_jax.models.byte_text import prompt_bytes
from bokeh_jax.models.focus_transformer import FOCUS, FocusConfig
from bokeh_jax.objectives.depth import DEPTH
from bokeh_jax.objectives.generate import CAPTION, sample_images
from bokeh_jax.objectives.lens_chain import made_scenes
from bokeh_jax.optics import Exif, Lens
from bokeh_jax.simulation import disparity_at
from bokeh_jax.training import checkpoint
from bokeh_jax.training.frozen import load_task
from bokeh_jax.training.rng import example_keys, step_key
from bokeh_jax.training.task import matching_networks

PyTree = Any
# σ where no transformer says another: a subject about 20 cm wide in the frame.
DEFAULT_SCALE_M = 0.2
FULL_FRAME_WIDTH_MM = 36.0
Focus = tuple[float, float] | float | None


@dataclasses.dataclass(frozen=True)
class Camera:
    """A camera's settings.

    Attributes:
        f_number: N.
        focal_length_mm: f.
        sensor_width_mm: of what the frame's width shows.

    Raises:
        InvalidInput: naming the field, its value and what is allowed.
    """

    f_number: float
    focal_length_mm: float
    sensor_width_mm: float = FULL_FRAME_WIDTH_MM

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not (value > 0 and np.isfinite(value)):
                name = field.name.replace("_", "-")
                raise InvalidInput(f"{name} is {value}; allowed: finite and above 0")

    def exif(self) -> Exif:
        """As the optics take it, batch shape [1]."""
        fields = (self.focal_length_mm / 1e3, self.f_number, self.sensor_width_mm / 1e3)
        return Exif(*(jnp.full((1,), value, jnp.float32) for value in fields))


@dataclasses.dataclass(frozen=True)
class FocusModel:
    """A focus distance transformer and its parameters."""

    config: FocusConfig
    params: PyTree

    @classmethod
    def from_checkpoint(cls, workdir: str | Path, *, use_ema: bool = True) -> "FocusModel":
        """The newest checkpoint of a run with task 'focus', or 'defocus' which has one too.

        Raises:
            InvalidInput: no checkpoint there, or of another task.
        """
        config, params, _ = load_task(workdir, ("focus", "defocus"), use_ema=use_ema)
        return cls(config.focus, params[FOCUS])


@dataclasses.dataclass(frozen=True)
class FocusFound:
    """What is in focus, and what the blur is measured by.

    Attributes:
        disparity: δ, relative.
        scale_m: σ.
        uncertainty: standard deviation of δ; None where it was asked for and not found.
        attention: of the transformer over the scene's patches, sum 1; None likewise.
    """

    disparity: float
    scale_m: float
    uncertainty: float | None = None
    attention: Float32[np.ndarray, "rows columns"] | None = None


@dataclasses.dataclass(frozen=True)
class Photographed:
    """A photograph of a scene.

    Attributes:
        image: sRGB-encoded, [0, 1].
        camera: it was taken with.
        focus: what was in focus.
        focus_distance_m: where relative disparity 0 is infinitely far; inf at the horizon.
        max_radius_px: the largest blur.
        lens: of relative disparity.
    """

    image: Float[np.ndarray, "h w 3"]
    camera: Camera
    focus: FocusFound
    focus_distance_m: float
    max_radius_px: float
    lens: Lens


@dataclasses.dataclass(frozen=True)
class GeneratedScene:
    """A scene that may be photographed any number of times.

    Attributes:
        prompt: that it was made from.
        seed: likewise.
        image: sharp everywhere, sRGB-encoded, [0, 1].
        disparity: relative, [0, 1]; None without a depth network.
        focus_model: the transformer; None without.
    """

    prompt: str
    seed: int
    image: Float[np.ndarray, "h w 3"]
    disparity: Float[np.ndarray, "h w"] | None
    focus_model: FocusModel | None = None

    def find_focus(
        self, camera: Camera, focus: Focus = None, scale_m: float | None = None
    ) -> FocusFound:
        """What a photograph with this camera would be focused on.

        Args:
            camera: its settings.
            focus: None lets the transformer choose; (x, y) in [0, 1] is a point of the image; a
                number is a distance in metres.
            scale_m: σ; None takes the transformer's, or `DEFAULT_SCALE_M` without one.

        Raises:
            InvalidInput: the scene lacks what that needs, or a value is out of range.
        """
        depths = self._depths()
        if scale_m is not None and not (scale_m > 0 and np.isfinite(scale_m)):
            raise InvalidInput(f"scale is {scale_m} m; allowed: finite and above 0")
        found = self._asked_transformer(camera)
        if focus is None and found is None:
            raise InvalidInput(
                "focus is 'auto' without a focus model; allowed: a point x,y, a distance in "
                "metres, or a focus distance transformer"
            )
        scale = scale_m or (DEFAULT_SCALE_M if found is None else found.scale_m)
        if focus is None:
            assert found is not None
            return dataclasses.replace(found, scale_m=scale)
        if isinstance(focus, tuple):
            if not all(0.0 <= value <= 1.0 for value in focus):
                raise InvalidInput(f"focus is {focus}; allowed: x,y each from 0 (left, top) to 1")
            plane = disparity_at(jnp.asarray(depths), jnp.asarray([focus], jnp.float32))[0]
            return FocusFound(float(plane), scale)
        return FocusFound(_disparity_of(focus, camera, scale), scale)

    def photograph(
        self, camera: Camera, focus: Focus | FocusFound = None, scale_m: float | None = None
    ) -> Photographed:
        """Takes a photograph; arguments and errors as `find_focus`, whose answer may be given."""
        if not isinstance(focus, FocusFound):
            focus = self.find_focus(camera, focus, scale_m)
        exif, width_px = camera.exif(), self.image.shape[1]
        delta, sigma = (jnp.full((1,), v, jnp.float32) for v in (focus.disparity, focus.scale_m))
        lens = jax.tree.map(lambda leaf: leaf[0], exif.lens(delta, sigma, width_px))
        settings, depths = PhotoSettings(), self._depths()
        radius_px = largest_radius_px(depths, [lens], settings)
        if radius_px > width_px / 2:
            raise InvalidInput(
                f"the largest blur radius is {radius_px:g} px; allowed: up to half the width, "
                f"{width_px / 2:g} px: a larger f-number, or a scale above {focus.scale_m:g} m"
            )
        # Bounds in steps, so that a sweep compiles few programs.
        bound = radius_bound(radius_px / width_px, width_px)
        taken = photograph(self.image, depths, lens, settings, max_radius_px=bound)
        distance = float(exif.focus_distance_m(delta, sigma)[0]) if focus.disparity > 0 else np.inf
        return Photographed(taken, camera, focus, distance, radius_px, lens)

    def _depths(self) -> Float[np.ndarray, "h w"]:
        if self.disparity is None:
            raise InvalidInput("the scene has no depth; allowed: a generator with a depth network")
        return self.disparity

    def _asked_transformer(self, camera: Camera) -> FocusFound | None:
        model = self.focus_model
        if model is None:
            return None
        answer = _focus_answer(
            model.config,
            model.params,
            jnp.asarray(2.0 * self.image - 1.0, jnp.float32)[None],
            jnp.asarray(self._depths(), jnp.float32)[None],
            camera.exif(),
        )
        height_px, width_px = self._depths().shape
        patch = model.config.patch_size
        delta = focus_transformer.likeliest(answer)
        return FocusFound(
            float(delta[0]),
            float(answer.scale_m[0]),
            float(answer.uncertainty[0]),
            np.asarray(answer.attention[0]).reshape(height_px // patch, width_px // patch),
        )


@dataclasses.dataclass(frozen=True)
class Generator:
    """A trained generator with what photographs its images. Make one with `from_checkpoint`."""

    config: ExperimentConfig
    params: PyTree
    step: int
    depth: DepthModel | None = None
    focus: FocusModel | None = None

    @classmethod
    def from_checkpoint(
        cls,
        workdir: str | Path,
        *,
        depth: str | Path | None = None,
        focus: str | Path | None = None,
        step: int | None = None,
        use_ema: bool = True,
    ) -> "Generator":
        """Loads the newest (or the given) checkpoint of a run with task 'generate' or 'defocus'.

        Args:
            workdir: of the run.
            depth: a run with task 'depth', or a folder of transformers' Depth Anything; None takes
                that of a run with task 'defocus', and otherwise makes scenes without depth, which
                cannot be photographed.
            focus: a run with task 'focus' or 'defocus'; None likewise, and otherwise finds no focus
                by itself.
            step: of the checkpoint.
            use_ema: the averaged parameters.

        Raises:
            InvalidInput: a checkpoint is not there, or of another task, or has no generator, or
                prompts of this one are embeddings of another encoder.
        """
        here = checkpoint.existing_step(workdir, step)
        is_whole = checkpoint.load_config(workdir, here).task == "defocus"
        task = "defocus" if is_whole else "generate"
        config, params, found = load_task(workdir, task, here, use_ema=use_ema)
        if is_whole and config.matching.scenes == "given":
            raise InvalidInput(
                f"{workdir} has no generator: its scenes were given (matching.scenes); allowed: a "
                "run that makes them. It is a focus model (--focus-model) all the same"
            )
        if config.generation.images != "all_in_focus":
            raise InvalidInput(
                f"{workdir} makes images={config.generation.images!r}, which have a lens's blur "
                "already; allowed here: 'all_in_focus'; `inference.token_camera` takes such runs"
            )
        if config.generation.text_from != "bytes":
            raise InvalidInput(
                f"{workdir} reads prompts with generation.text_from="
                f"{config.generation.text_from!r}; allowed: 'bytes'"
            )
        own_depth = DepthModel(config.depth, params[DEPTH]) if is_whole else None
        own_focus = FocusModel(config.focus, params[FOCUS]) if is_whole else None
        return cls(
            config,
            params,
            found,
            own_depth if depth is None else DepthModel.from_folder(Path(depth)),
            own_focus if focus is None else FocusModel.from_checkpoint(focus),
        )

    def scene(
        self,
        prompt: str,
        *,
        seed: int = 0,
        num_steps: int | None = None,
        guidance_scale: float | None = None,
    ) -> GeneratedScene:
        """Makes the scene of a prompt: the same for the same prompt and seed.

        Args:
            prompt: what is to be seen.
            seed: of the flow's noise.
            num_steps: solver steps; None takes the checkpoint's own.
            guidance_scale: None takes the checkpoint's own.

        Raises:
            InvalidInput: a prompt that cannot be read, or steps below 1; other steps or a guidance
                than a run with task 'defocus' is trained for.
        """
        sampler = self.config.sampler
        steps = sampler.num_steps if num_steps is None else num_steps
        if steps < 1:
            raise InvalidInput(f"steps is {steps}; allowed: 1 or more")
        scale = sampler.guidance_scale if guidance_scale is None else guidance_scale
        if self.config.task == "defocus":
            trained = self.config.matching.num_steps
            if num_steps not in (None, trained) or guidance_scale not in (None, 1.0):
                raise InvalidInput(
                    f"steps is {num_steps} and guidance {guidance_scale}; allowed: {trained} and "
                    "1, which the run is trained for with task='defocus'"
                )
        written = prompt_bytes(prompt, self.config.text.max_bytes)
        keys = example_keys(step_key(seed, "inference", 0), 1)
        made = self._sampled(self.params, written[None], keys, num_steps=steps, scale=scale)
        image = np.clip(np.asarray(made[0]) / 2.0 + 0.5, 0.0, 1.0)
        disparity = None if self.depth is None else estimate_disparity(self.depth, image).relative
        return GeneratedScene(prompt, seed, image, disparity, self.focus)

    @functools.cached_property
    def _sampled(self) -> Callable[..., jax.Array]:
        config = self.config
        side = config.simulation.size_px // config.codec.downsampling

        def sampled(
            params: PyTree, written: jax.Array, keys: jax.Array, num_steps: int, scale: float
        ) -> jax.Array:
            if config.task == "defocus":
                return made_scenes(
                    params,
                    {CAPTION: written},
                    keys,
                    (config.simulation.size_px, config.simulation.size_px),
                    networks=matching_networks(config),
                    matching=config.matching,
                    in_use=True,
                )
            return sample_images(
                params,
                {CAPTION: written},
                keys,
                (side, side),
                model=config.model,
                text=config.text,
                generation=config.generation,
                codec=config.codec,
                method=config.sampler.method,
                num_steps=num_steps,
                guidance_scale=scale,
            )

        return jax.jit(sampled, static_argnames=("num_steps", "scale"))


_focus_answer = jax.jit(focus_transformer.apply, static_argnums=0)


def _disparity_of(distance_m: float, camera: Camera, scale_m: float) -> float:
    """δ of a distance: `optics.exif`, equation (3) solved for it."""
    focal_m, sensor_m = camera.focal_length_mm / 1e3, camera.sensor_width_mm / 1e3
    if not (distance_m > focal_m and np.isfinite(distance_m)):
        raise InvalidInput(
            f"focus is {distance_m:g} m; allowed: finite and beyond the focal length, {focal_m:g} m"
        )
    return scale_m / (sensor_m * (distance_m / focal_m - 1.0))
