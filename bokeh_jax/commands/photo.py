"""`bokeh-jax refocus`: photograph file in, photograph file out."""

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np

from bokeh_jax.errors import InvalidInput
from bokeh_jax.inference.depth import DepthModel, estimate_disparity
from bokeh_jax.inference.photo_file import Photo, kind_of, read_photo, write_photo
from bokeh_jax.inference.refocuser import Refocuser
from bokeh_jax.inference.request import TakenWith, check_request
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


def disparity_of(
    arguments: argparse.Namespace, photo: Photo, *, metric: bool = False
) -> np.ndarray | None:
    """Disparity by --disparity or --depth-model, relative or in 1/m; None where neither is given.

    Raises:
        InvalidInput: a file that cannot be used, or a network that does not know metres.
    """
    if arguments.disparity is not None:
        return read_disparity(arguments.disparity, "metric" if metric else "relative")
    if arguments.depth_model is None:
        return None
    model = DepthModel.from_folder(arguments.depth_model)
    if metric and model.config.kind != "metric":
        raise InvalidInput(
            f"--depth-model is {arguments.depth_model}, which has no metres; allowed with a "
            "camera: a metric one, or --disparity in 1/m"
        )
    estimate = estimate_disparity(model, photo.pixels)
    return estimate.per_m if metric else estimate.relative


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
    photo = read_photo(arguments.image)
    # An estimate takes seconds: what can be refused before is.
    check_request(photo.pixels, focus, arguments.blur, None)
    if arguments.steps is not None and arguments.steps < 1:
        raise InvalidInput(f"--steps is {arguments.steps}; allowed: 1 or more")
    taken = _taken_with(arguments)
    disparity = disparity_of(arguments, photo)
    check_request(photo.pixels, focus, arguments.blur, disparity)
    checkpoint: Path | None = arguments.checkpoint
    refocuser = Refocuser.from_checkpoint(checkpoint) if checkpoint else Refocuser.released()
    show = sys.stderr.isatty()

    def on_step(done: int, total: int) -> None:
        if show and total > 1:
            print(f"\r{done}/{total}", end="" if done < total else "\n", file=sys.stderr)

    result = refocuser(
        photo.pixels,
        focus=focus,
        blur=arguments.blur,
        disparity=disparity,
        taken_with=taken,
        seed=arguments.seed,
        num_steps=arguments.steps,
        guidance_scale=arguments.guidance,
        detail=arguments.detail,
        on_step=on_step,
    )
    write_photo(out, dataclasses.replace(photo, pixels=result.image))
    height, width = photo.pixels.shape[:2]
    worked = f"{result.working_size_px[1]}x{result.working_size_px[0]}"
    enlarged = "" if result.working_size_px == (height, width) else " and enlarged"
    tiles = f" in {result.num_tiles} tiles" if result.num_tiles > 1 else ""
    how = (
        f"lens blur at {width}x{height}, the network's correction at {worked}{tiles}{enlarged}"
        if result.full_resolution
        else f"network at {worked}, its answer enlarged to {width}x{height}"
    )
    print(f"{out}: focus {focus[0]:g},{focus[1]:g}, blur {arguments.blur:g}; {how}")
