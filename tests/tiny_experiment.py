"""A tiny experiment that trains in seconds, and its dataset: fixtures for every test."""

import pytest

from bokeh_jax import config as config_lib
from bokeh_jax.config import ExperimentConfig
from data_pipeline.builder import build
from data_pipeline.layered import LayeredSource

TINY = {
    "name": "tiny",
    "simulation": {
        "size_px": 16,
        "cameras": {"blur_fraction_min": 0.06, "blur_fraction_max": 0.15},
    },
    "model": {
        "patch_size": 4,
        "hidden_dim": 32,
        "num_heads": 2,
        # A quarter of a step's program; `BOTH_BLOCKS` is for those that look at the network.
        "num_double_blocks": 0,
        "num_single_blocks": 1,
        "rope_axes_dim": (4, 6, 6),
        "compute_dtype": "float32",
        "scan_blocks": False,
    },
    # Without the guide, whose lens blur is more than half of the step's program: what most tests
    # look at is around the step. `GUIDED` is for those that look at the network's answer.
    "objective": {"flow_source": "reference", "guide": False},
    "optimizer": {"warmup_steps": 2, "ema_decay": 0.9},
    "training": {
        "num_steps": 12,
        "global_batch_size": 4,
        "log_every_steps": 1,
        # A panel costs as much tracing and compiling as the step; tests of panels ask for them.
        "image_every_steps": 0,
        "checkpoint_every_steps": 7,
    },
    "evaluation": {"num_scenes": 8, "batch_size": 4, "splits": ("eval_heldout",)},
}
GUIDED = TINY | {"objective": {"flow_source": "reference"}}
BOTH_BLOCKS = TINY["model"] | {"num_double_blocks": 1}


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "tiny"
    build(
        LayeredSource(size_px=26, seed=5, max_layers=3),
        path,
        counts={"train": 10, "eval_heldout": 8},
        num_workers=0,
    )
    return path


@pytest.fixture(scope="session")
def tiny(dataset) -> ExperimentConfig:
    return config_lib.resolve(TINY | {"data": {"path": str(dataset)}})


@pytest.fixture(scope="session")
def guided(dataset) -> ExperimentConfig:
    return config_lib.resolve(GUIDED | {"data": {"path": str(dataset)}})
