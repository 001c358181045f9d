"""The parts of the task 'defocus' at a size that compiles in seconds, and runs that hold them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from random_runs import perturbed
from tiny_experiment import TINY

from bokeh_jax import config as config_lib
from bokeh_jax.config import ExperimentConfig
from bokeh_jax.training.checkpoint import DataPosition
from bokeh_jax.training.saver import open_saver
from bokeh_jax.training.state import abstract_state
from data_pipeline.builder import build
from data_pipeline.source import CameraExif, PhotoScene

SIDE_PX = 16
READS_EXIF = {"images": "photographs", "exif_tokens": True}
PARTS = {
    "simulation": {"size_px": SIDE_PX, "frame_multiple_px": 4, "augment": {"flip_rate": 0.0}},
    "model": TINY["model"] | {"reference_as": "tokens", "text_dim": 8, "pooled_dim": 8},
    "text": {
        "max_bytes": 8,
        "hidden_dim": 8,
        "num_heads": 2,
        "num_blocks": 0,
        "num_tokens": 2,
        "compute_dtype": "float32",
    },
    "depth": {
        "hidden_dim": 8,
        "num_heads": 2,
        "num_blocks": 2,
        "patch_px": 4,
        "position_grid": 4,
        "out_blocks": (1, 2),
        "neck_dims": (4, 4),
        "resize_factors": (1.0, 0.5),
        "fusion_dim": 4,
        "last_dim": 4,
        "working_size_px": SIDE_PX,
        "compute_dtype": "float32",
    },
    "focus": {
        "hidden_dim": 16,
        "num_heads": 2,
        "num_blocks": 1,
        "rope_axes_dim": (2, 4, 2),
        "compute_dtype": "float32",
    },
    "head": {"width": 4, "num_levels": 2},
    "optimizer": TINY["optimizer"],
    "training": TINY["training"]
    | {"num_steps": 4, "global_batch_size": 2, "checkpoint_every_steps": 2},
}


class Photographs:
    """Photographs with EXIF that cost nothing; scene `index` is the same every time."""

    name = "photographs"

    def recipe(self):
        return {"source": self.name, "kind": "photographs", "version": 1}

    def num_scenes(self, split):
        return None

    def scene(self, split, index):
        rng = np.random.default_rng([len(split), index])
        image, taken = (
            rng.integers(0, 256, (SIDE_PX, SIDE_PX, 3)).astype(np.uint8) for _ in range(2)
        )
        return PhotoScene(
            image=image,
            defocused=taken,
            disparity=rng.random((SIDE_PX, SIDE_PX)).astype(np.float32),
            disparity_range_per_m=(0.0, 1.0),
            caption=f"scene {index}",
            camera=CameraExif(50.0, 50.0, float(rng.uniform(1.4, 16.0))),
        )


def build_photographs(path):
    build(Photographs(), path, counts={"train": 4}, num_workers=0)
    return path


def config_of(task: str, data, **changes) -> ExperimentConfig:
    return config_lib.resolve(
        PARTS | {"name": f"tiny_{task}", "task": task, "data": {"path": str(data)}} | changes
    )


def save_run(workdir, config: ExperimentConfig, seed: int, frozen: str = "") -> str:
    """A checkpoint of step 7 with random weights; no program is compiled for it."""
    zeros = jax.tree.map(
        lambda leaf: jnp.asarray(np.zeros(leaf.shape, leaf.dtype)), abstract_state(config)
    )
    ema = jax.tree.map(jnp.asarray, perturbed(zeros.ema, seed))
    state = dataclasses.replace(zeros, params=ema, ema=ema)
    with open_saver(workdir, config, frozen) as saver:
        saver.save(state, DataPosition(7, 3, "0123456789abcdef"))
    return str(workdir)


def save_parts(folder, data) -> dict[str, str]:
    """Runs of every part, by the names of `pretrained`."""
    runs = {
        "generator": config_of("generate", data),
        "teacher": config_of("generate", data, generation=READS_EXIF),
        "depth": config_of("depth", data),
        "focus": config_of("focus", data),
    }
    return {
        name: save_run(folder / name, config, seed)
        for seed, (name, config) in enumerate(runs.items())
    }
