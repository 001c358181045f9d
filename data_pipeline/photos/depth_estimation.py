"""Disparity for photographs that have none: what an estimator is, and one by Hugging Face.

An estimator turns photographs into relative disparity. A network's output p has no scale of its own
and is taken to [0, 1] by its own minimum and maximum,

    disparity = (p − min p) / (max p − min p),

where p is the network's output if that is disparity (larger is nearer, as of MiDaS and Depth
Anything), or 1 / depth if it is depth in metres.
"""

import dataclasses
import functools
import hashlib
import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image

from bokeh_jax.errors import InvalidInput
from data_pipeline.photos.files import Part

# Nearer than any network means, farther than rounding: the floor under depths that are inverted.
MIN_DEPTH_M = 1e-3


@runtime_checkable
class DepthEstimator(Protocol):
    """Estimates disparity; frozen and picklable, since every process has its own."""

    def recipe(self) -> dict[str, Any]:
        """Return all that decides what is estimated, as JSON values."""
        ...

    def check(self) -> None:
        """Raise InvalidInput if photographs cannot be estimated on this machine."""
        ...

    def __call__(
        self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]
    ) -> Sequence[Float32[np.ndarray, "_ _"]]:
        """Return the relative disparity of each photograph, [0, 1], nearer is larger.

        Args:
            images: upright, sRGB-encoded, of any sizes.

        Returns:
            For each a map of the same proportions.
        """
        ...


@dataclasses.dataclass(frozen=True)
class HuggingFaceDepth:
    """The `depth-estimation` pipeline of Transformers, on the CPU, with weights on this machine.

    Attributes:
        folder: config, weights and image processor, as `save_pretrained` writes them.
        output: what the network gives: `disparity` (larger is nearer, no scale) or `depth` (m).
    """

    folder: Path
    output: Literal["disparity", "depth"] = "disparity"

    def __post_init__(self):
        if self.output not in ("disparity", "depth"):
            raise InvalidInput(
                f"output of the depth model is {self.output!r}; allowed: disparity, depth"
            )

    def recipe(self) -> dict[str, Any]:
        """Return the network's files by content, and what its output is."""
        files = hashlib.sha256()
        for path in sorted(Path(self.folder).rglob("*")):
            if path.is_file():
                name = path.relative_to(self.folder).as_posix()
                files.update(name.encode() + b"\0" + (Part(path).sha256() or b""))
        return {
            "estimator": "huggingface",
            "output": self.output,
            "files_sha256": files.hexdigest(),
        }

    def check(self) -> None:
        """Raise InvalidInput unless there are weights and the packages that run them."""
        if not (Path(self.folder) / "config.json").is_file():
            raise InvalidInput(
                f"depth model {self.folder} has no config.json; allowed: a folder with a depth "
                "estimation model of Hugging Face, as save_pretrained writes it"
            )
        if not any(Path(self.folder).glob("*.safetensors")):
            raise InvalidInput(
                f"depth model {self.folder} has no weights; allowed: a *.safetensors file there"
            )
        missing = [p for p in ("torch", "transformers") if importlib.util.find_spec(p) is None]
        if missing:
            raise InvalidInput(
                f"estimating depth needs {' and '.join(missing)}, not installed; "
                "allowed: pip install 'bokeh-jax[interop]'"
            )

    def __call__(
        self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]
    ) -> Sequence[Float32[np.ndarray, "_ _"]]:
        """Return the relative disparity of each photograph, [0, 1], nearer is larger.

        Raises:
            InvalidInput: weights or packages are missing, or the model cannot be loaded.
        """
        self.check()
        network = _pipeline(str(self.folder))
        outputs = [network(Image.fromarray(image))["predicted_depth"] for image in images]
        arrays = [np.squeeze(np.asarray(output, np.float32)) for output in outputs]
        return [relative_disparity(array, self.output) for array in arrays]


def relative_disparity(
    output: Float[np.ndarray, "h w"], kind: Literal["disparity", "depth"]
) -> Float32[np.ndarray, "h w"]:
    """Return a network's output as relative disparity, [0, 1]; 0 everywhere if it is flat."""
    values = output.astype(np.float64)
    if kind == "depth":
        values = 1 / np.maximum(values, MIN_DEPTH_M)
    low, high = values.min(), values.max()
    return ((values - low) / max(high - low, np.finfo(np.float64).tiny)).astype(np.float32)


# Loaded once a process: it takes seconds, and a photograph less than one.
@functools.cache
def _pipeline(folder: str) -> Any:
    transformers = importlib.import_module("transformers")
    try:
        return transformers.pipeline(
            "depth-estimation", model=folder, device="cpu", local_files_only=True
        )
    # Whatever a model's files lack, it is the folder that is not usable.
    except Exception as error:
        raise InvalidInput(
            f"depth model {folder} cannot be loaded ({' '.join(str(error).split())[:200]}); "
            "allowed: a depth estimation model of Hugging Face"
        ) from error
