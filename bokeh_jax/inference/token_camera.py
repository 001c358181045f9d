"""Text and EXIF to a photograph with no lens between: the baseline ("Camera Settings as Tokens").

    camera = TokenCamera.from_checkpoint("runs/exif_tokens")
    wide = camera.photograph("a disc of brick before grass", Camera(1.8, 50), seed=1)
    deep = camera.photograph("a disc of brick before grass", Camera(22, 50), seed=1)

The network is told of the camera by tokens (`models.exif_tokens`) and makes the blur itself, so
another f-number may be another scene, though prompt and noise are the same. How much another it is:
`evaluation.aperture_control`.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from bokeh_jax.config import ExperimentConfig
from bokeh_jax.errors import InvalidInput
from bokeh_jax.inference.generator import Camera
from bokeh_jax.models.byte_text import prompt_bytes
from bokeh_jax.objectives.generate import CAMERA, CAPTION, sample_images
from bokeh_jax.training.frozen import load_task
from bokeh_jax.training.rng import example_keys, step_key

_FULL_FRAME_MM = 36.0


@dataclasses.dataclass(frozen=True)
class TokenCamera:
    """A generator of photographs that is told of EXIF. Make one with `from_checkpoint`."""

    config: ExperimentConfig
    params: Any
    step: int

    @classmethod
    def from_checkpoint(
        cls, workdir: str | Path, *, step: int | None = None, use_ema: bool = True
    ) -> "TokenCamera":
        """Loads the newest (or the given) checkpoint of a run with generation.exif_tokens.

        Raises:
            InvalidInput: no checkpoint there, or it reads no EXIF, or prompts are embeddings.
        """
        config, params, found = load_task(workdir, "generate", step, use_ema=use_ema)
        if not config.generation.exif_tokens or config.generation.text_from != "bytes":
            raise InvalidInput(
                f"{workdir} has generation.exif_tokens={config.generation.exif_tokens} and "
                f"text_from={config.generation.text_from!r}; allowed: True and 'bytes'"
            )
        return cls(config, params, found)

    def photograph(
        self, prompt: str, camera: Camera | None, *, seed: int = 0
    ) -> Float[np.ndarray, "h w 3"]:
        """A photograph, sRGB-encoded in [0, 1]; the same for the same arguments.

        Args:
            prompt: what is to be seen.
            camera: that it is taken with; None leaves it to the network.
            seed: of the flow's noise.

        Raises:
            InvalidInput: a prompt that cannot be read.
        """
        told: dict[str, Any] = {CAPTION: prompt_bytes(prompt, self.config.text.max_bytes)[None]}
        if camera is not None:
            equivalent_mm = camera.focal_length_mm * _FULL_FRAME_MM / camera.sensor_width_mm
            fields = (camera.focal_length_mm, equivalent_mm, camera.f_number)
            told[CAMERA] = np.asarray([fields], np.float32)
        keys = example_keys(step_key(seed, "inference", 0), 1)
        made = self._sampled(self.params, told, keys)
        return np.clip(np.asarray(made[0]) / 2.0 + 0.5, 0.0, 1.0)

    @functools.cached_property
    def _sampled(self) -> Callable[..., jax.Array]:
        config = self.config
        side = config.simulation.size_px // config.codec.downsampling

        def sampled(params: Any, told: dict[str, jax.Array], keys: jax.Array) -> jax.Array:
            return sample_images(
                params,
                told,
                keys,
                (side, side),
                model=config.model,
                text=config.text,
                generation=config.generation,
                codec=config.codec,
                **dataclasses.asdict(config.sampler),
            )

        return jax.jit(sampled)
