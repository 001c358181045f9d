"""The perceptual metrics by name, from one folder of weights; None where it has no weights.

    lpips_alex   lpips_alex.safetensors
    lpips_vgg    lpips_vgg.safetensors
    dists        dists.safetensors
    clip_i       clip/                     config.json, model.safetensors
    musiq        musiq.safetensors

Nothing is downloaded. docs/metrics.md says how each is made from what its authors publish.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bokeh_jax.errors import InvalidInput
from bokeh_jax.evaluation.perceptual.clip_image import load_clip_i
from bokeh_jax.evaluation.perceptual.dists import load_dists
from bokeh_jax.evaluation.perceptual.lpips import load_lpips
from bokeh_jax.evaluation.perceptual.musiq import load_musiq

Pictures = Float[np.ndarray, "b h w 3"]
# (answers, truths), sRGB in [0, 1] -> a score an answer. MUSIQ looks at the answers alone.
PerceptualMetric = Callable[[Pictures, Pictures], Float[np.ndarray, " b"]]
FILES = {
    "lpips_alex": "lpips_alex.safetensors",
    "lpips_vgg": "lpips_vgg.safetensors",
    "dists": "dists.safetensors",
    "clip_i": "clip",
    "musiq": "musiq.safetensors",
}
NO_WEIGHTS = "no weights"


def load_perceptual(folder: Path | None) -> dict[str, PerceptualMetric | None]:
    """Every perceptual metric by its name; None where there are no weights ('no weights').

    Args:
        folder: of weights; None for none at all.

    Raises:
        InvalidInput: the folder does not exist or holds none of `FILES`, or a file in it is not
            what its name says.
    """
    if folder is None:
        return dict.fromkeys(FILES)
    allowed = ", ".join(FILES.values())
    if not folder.is_dir():
        raise InvalidInput(
            f"folder of weights {folder} does not exist; allowed: one with {allowed}"
        )
    there = {name: folder / file for name, file in FILES.items() if (folder / file).exists()}
    if not there:
        raise InvalidInput(f"folder of weights {folder} holds none; allowed: {allowed}")
    return {name: _load(name, there[name]) if name in there else None for name in FILES}


def perceptual_scores(
    found: Mapping[str, PerceptualMetric | None], answers: Pictures, truths: Pictures
) -> dict[str, Float[np.ndarray, " b"] | None]:
    """Scores of a batch by name; None where there are no weights."""
    return {
        name: None if metric is None else metric(answers, truths) for name, metric in found.items()
    }


def _load(name: str, path: Path) -> PerceptualMetric:
    if name == "musiq":
        score = load_musiq(path)
        return lambda answers, truths: score(answers.astype(np.float32))
    if name == "clip_i":
        likeness = load_clip_i(path)
        return lambda answers, truths: np.asarray(likeness(answers, truths), np.float64)
    if name == "dists":
        distance = load_dists(path)
    else:
        distance = load_lpips(path, "alex" if name == "lpips_alex" else "vgg")
    return lambda answers, truths: np.asarray(
        distance(jnp.asarray(answers, jnp.float32), jnp.asarray(truths, jnp.float32)), np.float64
    )
