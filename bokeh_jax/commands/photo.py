"""`bokeh-jax refocus`: photograph file in, photograph file out."""

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np

from bokeh_jax.errors import InvalidInput
from bokeh_jax.inference.photo_file import Photo, kind_of, read_photo, write_photo
from bokeh_jax.inference.refocuser import Refocuser, TakenWith, check_request
from data_pipeline.photos import read_disparity


def parse_point(text: str, flag: str = "--focus") -> tuple[float, float]:
    """ "0.6,0.4" -> (0.6, 0.4)."""
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise InvalidInput(f"{flag} is {text!r}; allowed: x,y such as 0.6,0.4") from None
    return x, y


def output_path(arguments: argparse.Namespace, word: str) -> Path:
    """--out, or the image's name with a word in it; InvalidInput for an unknown ending."""
    image: Path = arguments.image
    path = arguments.out or image.with_name(f"{image.stem}.{word}{image.suffix}")
    kind_of(path)
    return path


def _read(arguments: argparse.Namespace) -> tuple[Photo, np.ndarray | None]:
    photo = read_photo(arguments.image)
    if arguments.disparity is None:
        return photo, None
    return photo, read_disparity(arguments.disparity)


def _taken_with(arguments: argparse.Namespace) -> TakenWith | None:
    """What is said of the photograph's own camera."""
    focus, blur = arguments.taken_focus, arguments.taken_blur
    if (focus is None) != (blur is None):
        raise InvalidInput("only one of --taken-focus and --taken-blur; allowed: both, or none")
    if arguments.all_in_focus:
        if blur is not None:
            raise InvalidInput("--all-in-focus with --taken-blur; allowed: one of them")
        return TakenWith()
    return None if blur is None else TakenWith(parse_point(focus, "--taken-focus"), blur)


def refocus_file(arguments: argparse.Namespace) -> None:
    """Refocuses a file and says at which size the network worked."""
    focus, out = parse_point(arguments.focus), output_path(arguments, "refocused")
    photo, disparity = _read(arguments)
    check_request(photo.pixels, focus, arguments.blur, disparity)
    if arguments.steps is not None and arguments.steps < 1:
        raise InvalidInput(f"--steps is {arguments.steps}; allowed: 1 or more")
    taken = _taken_with(arguments)
    refocuser = Refocuser.from_checkpoint(arguments.checkpoint)
    show = sys.stderr.isatty()

    def on_step(done: int, total: int) -> None:
        if show and total > 1:
            print(f"\rsampling {done}/{total}", end="" if done < total else "\n", file=sys.stderr)

    result = refocuser(
        photo.pixels,
        focus=focus,
        blur=arguments.blur,
        disparity=disparity,
        taken_with=taken,
        seed=arguments.seed,
        num_steps=arguments.steps,
        guidance_scale=arguments.guidance,
        on_step=on_step,
    )
    write_photo(out, dataclasses.replace(photo, pixels=result.image))
    height, width = photo.pixels.shape[:2]
    worked = f"{result.working_size_px[1]}x{result.working_size_px[0]}"
    how = (
        f"lens blur at {width}x{height}, the network's correction at {worked} and enlarged"
        if result.full_resolution
        else f"network at {worked}, its answer enlarged to {width}x{height}"
    )
    print(f"{out}: focus {focus[0]:g},{focus[1]:g}, blur {arguments.blur:g}; {how}")
