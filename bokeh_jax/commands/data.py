"""`bokeh-jax data`: build, inspect, photo. Building needs no JAX, so imports of it are inside."""

import argparse
import contextlib
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bokeh_jax.commands.data_sources import mixture_of
from bokeh_jax.errors import InvalidInput
from data_pipeline.builder import BuildOptions, BuildSummary, build
from data_pipeline.builder import Progress as BuildProgress
from data_pipeline.dataset_folder import dataset_info
from data_pipeline.demo_photo import demo_photo
from data_pipeline.text_encoder import FluxTextEncoder

# What shells give for SIGINT.
_INTERRUPTED = 130


def build_dataset(arguments: argparse.Namespace) -> None:
    """Builds a dataset with a progress bar, or says that it is there already."""
    # Values that are refused are refused before anything is read or written.
    options = BuildOptions(
        jpeg_quality=arguments.jpeg_quality,
        text_encoder=text_encoder_of(arguments),
        scenes_per_shard=arguments.scenes_per_shard,
        max_damaged_share=arguments.max_damaged_share,
        num_workers=arguments.workers,
        runner=arguments.runner,
        beam_options=_split_options(arguments.beam_options),
    )
    mixture = mixture_of(arguments)
    try:
        with _progress_bar() as on_progress:
            summary = build(
                mixture,
                arguments.out,
                overwrite=arguments.overwrite,
                options=options,
                on_progress=on_progress,
            )
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    print(_describe(summary))


def text_encoder_of(arguments: argparse.Namespace) -> FluxTextEncoder | None:
    """What `--text-encoder` and `--text-tokens` ask for.

    Raises:
        InvalidInput: a number of tokens out of range, or without an encoder.
    """
    if arguments.text_encoder is None:
        if arguments.text_tokens is not None:
            raise InvalidInput(
                f"--text-tokens is {arguments.text_tokens}; allowed only with --text-encoder"
            )
        return None
    if arguments.text_tokens is None:
        return FluxTextEncoder(arguments.text_encoder)
    return FluxTextEncoder(arguments.text_encoder, arguments.text_tokens)


def _split_options(text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise InvalidInput(f"--beam-options is {text!r} ({error}); allowed: --NAME=VALUE") from None


@contextlib.contextmanager
def _progress_bar() -> Iterator[Callable[[BuildProgress], None]]:
    """Shows a bar on a terminal; gives the function that moves it."""
    bar = Progress(
        TextColumn("scenes"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        disable=not sys.stdout.isatty(),
    )
    task = bar.add_task("scenes", total=None, note="")
    start, at_start = time.monotonic(), None

    def on_progress(progress: BuildProgress) -> None:
        nonlocal at_start
        # What an earlier build has left is no speed of this one.
        at_start = progress.done if at_start is None else at_start
        rate = (progress.done - at_start) / max(time.monotonic() - start, 1e-9)
        skipped = progress.dropped + progress.damaged
        note = f"{rate:.1f}/s" + (f", {skipped} skipped" if skipped else "")
        if progress.captions_total:
            note += f", captions {progress.captions_done}/{progress.captions_total}"
        bar.update(task, completed=progress.done, total=progress.total, note=note)

    with bar:
        yield on_progress


def _describe(summary: BuildSummary) -> str:
    """One line on a dataset, numbers by split and group."""
    splits = []
    for split, groups in summary.info.splits.items():
        parts = [f"{g.source} {g.width_px}x{g.height_px}: {g.num_scenes}" for g in groups]
        splits.append(f"{split} {summary.info.counts[split]} ({', '.join(parts)})")
    text = f"{summary.info.text}; " if summary.info.text is not None else ""
    verb = "kept" if summary.reused else "built"
    return (
        f"{verb} {summary.path}: {', '.join(splits)}; {text}"
        f"{summary.num_dropped} dropped, {summary.num_damaged} damaged, "
        f"{summary.num_bytes / 1e6:.1f} MB, fingerprint {summary.info.fingerprint[:12]}"
    )


def inspect_dataset(arguments: argparse.Namespace, overrides: list[str]) -> None:
    """Writes the contact sheet of a config's dataset and cameras."""
    from bokeh_jax import config as config_lib
    from bokeh_jax.evaluation.contact_sheet import contact_sheet
    from bokeh_jax.inference.photo_file import Photo, write_photo

    config = config_lib.load(arguments.config, overrides)
    if arguments.scenes < 1:
        raise InvalidInput(f"--scenes is {arguments.scenes}; allowed: 1 or more")
    sheet = contact_sheet(
        Path(config.data.path),
        arguments.split,
        config.simulation,
        depth_noise=config.objective.depth_noise,
        num_scenes=arguments.scenes,
        seed=arguments.seed,
    )
    write_photo(arguments.out, Photo(sheet))
    print(f"contact sheet: {arguments.out}")
    text = dataset_info(Path(config.data.path)).text
    print(f"text: {text or 'captions without embeddings'}")


def export_photo(folder: Path) -> None:
    """Writes the demo's photograph and its disparity (16-bit PNG)."""
    from bokeh_jax.inference.photo_file import Photo, write_photo

    photograph, disparity = demo_photo()
    write_photo(folder / "photo.png", Photo(photograph.astype(np.float32) / 255.0))
    levels = np.rint(disparity * 65535.0).astype(np.uint16)
    temporary = folder / ".photo.disparity.tmp"
    Image.fromarray(levels).save(temporary, format="PNG")
    temporary.replace(folder / "photo.disparity.png")
    print(f"photo: {folder / 'photo.png'} with {folder / 'photo.disparity.png'}")
