"""`bokeh-jax data`: build, inspect, photo."""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bokeh_jax import config as config_lib
from bokeh_jax.errors import InvalidInput
from bokeh_jax.evaluation.contact_sheet import contact_sheet
from bokeh_jax.inference.photo_file import Photo, write_photo
from data_pipeline.builder import BuildSummary, build
from data_pipeline.demo_photo import demo_photo
from data_pipeline.layered import LayeredSource
from data_pipeline.photo_folder import PhotoFolderSource
from data_pipeline.source import SceneSource

_LAYERED_COUNTS = {"train": 2000, "eval_seen": 128, "eval_heldout": 128}


def _counts(items: list[str]) -> dict[str, int] | None:
    counts = {}
    for item in items:
        split, _, number = item.partition("=")
        if not number.isdigit():
            raise InvalidInput(f"--count is {item!r}; allowed: SPLIT=N such as train=2000")
        counts[split] = int(number)
    return counts or None


def _source(arguments: argparse.Namespace) -> SceneSource:
    if arguments.source == "layered":
        return LayeredSource(
            size_px=arguments.size, seed=arguments.seed, max_layers=arguments.max_layers
        )
    if arguments.photos is None:
        raise InvalidInput(
            "--photos is not given; allowed with --source photos: a folder of images"
        )
    return PhotoFolderSource(arguments.photos, size_px=arguments.size, seed=arguments.seed)


def build_dataset(arguments: argparse.Namespace) -> None:
    """Builds a dataset with a progress bar, or says that it is there already."""
    source = _source(arguments)
    counts = _counts(arguments.count)
    if counts is None and arguments.source == "layered":
        counts = _LAYERED_COUNTS
    bar = Progress(
        TextColumn("scenes"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        disable=not sys.stdout.isatty(),
    )
    task = bar.add_task("scenes", total=None)
    with bar:
        summary = build(
            source,
            arguments.out,
            counts=counts,
            num_workers=arguments.workers,
            overwrite=arguments.overwrite,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    print(_describe(summary))


def _describe(summary: BuildSummary) -> str:
    counts = ", ".join(f"{split} {number}" for split, number in summary.counts.items())
    verb = "kept" if summary.reused else "built"
    return (
        f"{verb} {summary.path}: {counts} scenes of {summary.size_px} px, "
        f"{summary.num_bytes / 1e6:.1f} MB, fingerprint {summary.fingerprint[:12]}"
    )


def inspect_dataset(arguments: argparse.Namespace, overrides: list[str]) -> None:
    """Writes the contact sheet of a config's dataset and cameras."""
    config = config_lib.load(arguments.config, overrides)
    if arguments.scenes < 1:
        raise InvalidInput(f"--scenes is {arguments.scenes}; allowed: 1 or more")
    sheet = contact_sheet(
        Path(config.data.path),
        arguments.split,
        config.simulation,
        num_scenes=arguments.scenes,
        seed=arguments.seed,
    )
    write_photo(arguments.out, Photo(sheet))
    print(f"contact sheet: {arguments.out}")


def export_photo(folder: Path) -> None:
    """Writes the demo's photograph and its disparity (16-bit PNG)."""
    photograph, disparity = demo_photo()
    write_photo(folder / "photo.png", Photo(photograph.astype(np.float32) / 255.0))
    levels = np.rint(disparity * 65535.0).astype(np.uint16)
    temporary = folder / ".photo.disparity.tmp"
    Image.fromarray(levels).save(temporary, format="PNG")
    temporary.replace(folder / "photo.disparity.png")
    print(f"photo: {folder / 'photo.png'} with {folder / 'photo.disparity.png'}")
