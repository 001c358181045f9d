"""Arguments of `bokeh-jax export`; imports nothing heavy."""

import argparse
from pathlib import Path


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `export`."""
    parser.add_argument(
        "--checkpoint", required=True, type=Path, help="--workdir of a training run"
    )
    parser.add_argument("--out", required=True, type=Path, help="folder to write: new or empty")
    parser.add_argument(
        "--format",
        choices=("torch", "diffusers", "peft", "jax"),
        default="torch",
        help="torch: weights, network and refocus.py in plain PyTorch, adapters merged (default); "
        "diffusers: a FluxTransformer2DModel, adapters merged, an AutoencoderKL, and the added "
        "parts in a file of their own; peft: the adapters alone, as diffusers and PEFT load them, "
        "and the added parts; jax: one file of all parameters and the config, for 'refocus "
        "--checkpoint'",
    )
    parser.add_argument(
        "--dtype", choices=("float32", "bf16"), default="float32", help="of the files"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--ema", action="store_true", help="the averaged parameters, which is the default"
    )
    which.add_argument("--raw", action="store_true", help="the raw parameters instead of the EMA")
    parser.add_argument("--step", type=int, help="checkpoint step; default: the newest")
