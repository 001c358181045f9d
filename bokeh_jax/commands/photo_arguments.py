"""Arguments of `refocus` and `render`; imports nothing heavy, so that --help is quick."""

import argparse
from pathlib import Path


def _photo_arguments(parser: argparse.ArgumentParser, *, render: bool) -> None:
    parser.add_argument("image", type=Path, help="JPEG, PNG, TIFF or WebP")
    parser.add_argument(
        "--focus",
        required=not render,
        type=str,
        metavar="X,Y",
        help="the point to be sharp, from 0 (left, top) to 1",
    )
    parser.add_argument(
        "--blur",
        required=not render,
        type=float,
        help="blur radius per unit disparity, in image widths; 0: all in focus, 0.03: a fast lens",
    )
    disparity = parser.add_mutually_exclusive_group(required=render)
    disparity.add_argument(
        "--disparity",
        type=Path,
        help="map of the image's size, near is bright: 8 or 16 bit PNG, TIFF; NPY, NPZ in [0, 1]",
    )
    disparity.add_argument(
        "--depth-model",
        type=Path,
        metavar="DIR",
        help="estimates it: a folder of Hugging Face with Depth Anything V2, relative or metric, "
        "or a run with task 'depth'",
    )
    parser.add_argument(
        "--out", type=Path, help="default: beside IMAGE, with .refocused or .rendered in the name"
    )


def add_refocus_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `bokeh-jax refocus`."""
    _photo_arguments(parser, render=False)
    parser.add_argument(
        "--checkpoint",
        type=Path,
        help="--workdir of a training run, or a folder of `export --format=jax`; default: the "
        "small network that comes with the package",
    )
    parser.add_argument(
        "--detail",
        choices=("tiles", "whole"),
        default="tiles",
        help="tiles: the network works tile by tile, as large as its training allows (needs "
        "disparity); whole: on the whole photograph made small; default: tiles",
    )
    parser.add_argument(
        "--all-in-focus", action="store_true", help="IMAGE is sharp everywhere (blur 0, known)"
    )
    parser.add_argument(
        "--taken-focus",
        metavar="X,Y",
        help="where IMAGE itself is sharp; with --taken-blur, its own blur as --blur says it: what "
        "is known to be blurred already is not blurred twice",
    )
    parser.add_argument("--taken-blur", type=float, metavar="BLUR", help="see --taken-focus")
    parser.add_argument("--steps", type=int, help="solver steps; default: the checkpoint's")
    parser.add_argument("--guidance", type=float, help="guidance scale; default: the checkpoint's")
    parser.add_argument("--seed", type=int, default=0, help="of the flow's noise")


def add_render_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `bokeh-jax render`."""
    _photo_arguments(parser, render=True)
    _camera_arguments(parser.add_argument_group("camera, in place of --blur; disparity in 1/m"))
    _aperture_arguments(parser.add_argument_group("aperture"))
    _focus_arguments(parser.add_argument_group("focus"))
    group = parser.add_argument_group("rack focus")
    group.add_argument(
        "--animate", type=Path, metavar="OUT", help="write a .gif, .webp or .mp4 in place of --out"
    )
    group.add_argument("--focus-to", type=str, metavar="X,Y", help="where the focus moves to")
    group.add_argument("--frames", type=int, default=24)
    group.add_argument("--fps", type=float, default=12.0, help="frames per second")


def _camera_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--f-number", type=float, help="such as 1.8")
    group.add_argument("--focal-length-mm", type=float, help="such as 50")
    group.add_argument("--sensor-width-mm", type=float, help="default: 36")
    group.add_argument("--focus-distance-m", type=float, help="in place of --focus")


def _aperture_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--blades", type=int, default=0, help="sides of the opening; 0: a disc")
    group.add_argument("--rotation", type=float, metavar="DEG", help="clockwise turn of the blades")
    group.add_argument("--roundness", type=float, help="bow of the blades, 0 to 1 (a disc)")
    group.add_argument(
        "--squeeze", type=float, help="width / height of the opening; anamorphic: 0.5"
    )
    group.add_argument("--cat-eye", type=float, help="cut towards the corners, 0 to below 1")
    group.add_argument(
        "--ring",
        type=str,
        metavar="RIM[,HOLE]",
        help="brightness of the rim (2: soap bubbles, 0: soft discs) and radius of a dark centre",
    )
    group.add_argument(
        "--kernel", type=Path, metavar="FILE", help="a picture of the opening, far blur upright"
    )
    group.add_argument(
        "--highlights",
        type=str,
        metavar="GAIN[,THRESHOLD]",
        help="make what was clipped GAIN times brighter, from linear light THRESHOLD (0.8) on",
    )


def _focus_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--tilt", type=str, metavar="X,Y", help="change of the focus disparity across the frame"
    )
    group.add_argument(
        "--in-focus-range", type=float, default=0.0, help="range of disparity that stays sharp"
    )
    group.add_argument(
        "--only", choices=("foreground", "background"), help="blur only what is nearer or farther"
    )
