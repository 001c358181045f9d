"""Small photographs and maps in files, for the tests of photographs."""

from pathlib import Path

import numpy as np
from PIL import Image

from data_pipeline.frames import FrameSizes
from data_pipeline.photos import PhotoSource
from data_pipeline.source import PhotoScene

SIDE_PX = 16
FRAMES = FrameSizes((SIDE_PX,))


def photo(path: Path, height: int = SIDE_PX, width: int = SIDE_PX, seed: int = 0) -> np.ndarray:
    """Write a photograph of noise; return its pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def ramp(height: int = SIDE_PX, width: int = SIDE_PX) -> np.ndarray:
    """Disparity from 0 to 1, row by row."""
    return np.linspace(0, 1, height * width, dtype=np.float32).reshape(height, width)


def pair(folder: Path, name: str = "a", seed: int = 0) -> np.ndarray:
    """Write a photograph and a map beside it; return the photograph's pixels."""
    np.save(folder / f"{name}.disparity.npy", ramp())
    return photo(folder / f"{name}.png", seed=seed)


def only_scene(where: Path | str, **fields) -> PhotoScene:
    """Return the scene of a source that has one."""
    source = PhotoSource(where, **{"frames": FRAMES, "heldout_fraction": 0.0, **fields})
    assert source.num_scenes("train") == 1
    return source.scene("train", 0)


def save_16_bit(path: Path, values: np.ndarray) -> None:
    """Write values of [0, 1] as 16 bits."""
    Image.fromarray(np.round(values * 65535).astype(np.uint16)).save(path)


def write_pfm(path: Path, values: np.ndarray, order: str = "<", kind: str = "Pf") -> None:
    """Write a Portable Float Map in either byte order."""
    scale = {"<": "-1.0", ">": "1.0"}[order]
    header = f"{kind}\n{values.shape[1]} {values.shape[0]}\n{scale}\n".encode()
    path.write_bytes(header + values[::-1].astype(f"{order}f4").tobytes())


def scene_names(source: PhotoSource, split: str) -> list[str]:
    """Return the photographs of a split, in its order."""
    scenes = (source.scene(split, index) for index in range(source.num_scenes(split) or 0))
    return [scene.provenance["photograph"] for scene in scenes]
