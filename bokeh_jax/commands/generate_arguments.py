"""Arguments of `generate`; imports nothing heavy, so that --help is quick."""

import argparse
from pathlib import Path

_EPILOG = """\
OUT gets photograph.png (of a sweep: photograph.f1.4.png and so on), all_in_focus.png, depth.png
(16 bit, near is bright), focus_attention.png where a focus model chose, and contact_sheet.png.
Photographs have EXIF. All of them show the same scene: what changes is the lens.

examples:
  bokeh-jax generate "One thing, nearest first: a disc of brick in the centre, near, before a \
backdrop of grass." --checkpoint=runs/generate --depth-model=runs/depth --focus-model=runs/focus \
--f-number=1.8 --focal-length=50 --out=out
  bokeh-jax generate "..." --checkpoint=runs/generate --depth-model=runs/depth --focus=0.5,0.6 \
--f-number=1.8 --focal-length=50 --sweep=f-number=1.4,2.8,5.6,22 --out=out
  bokeh-jax render out/all_in_focus.png --disparity=out/depth.png --focus=0.2,0.2 --blur=0.05
"""


def add_generate_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `bokeh-jax generate`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument("prompt", help="what is to be seen")
    parser.add_argument(
        "--checkpoint",
        required=True,
        type=Path,
        help="--workdir of a run with task 'generate' or 'defocus'",
    )
    parser.add_argument(
        "--depth-model",
        type=Path,
        metavar="DIR",
        help="a run with task 'depth', or a folder of Hugging Face with Depth Anything V2; a "
        "checkpoint with task 'defocus' has its own",
    )
    parser.add_argument(
        "--focus-model",
        type=Path,
        metavar="RUN",
        help="a run with task 'focus' or 'defocus'; finds what is in focus, and the depth's scale",
    )
    camera = parser.add_argument_group("camera")
    camera.add_argument("--f-number", type=float, default=1.8, metavar="N", help="default: 1.8")
    camera.add_argument(
        "--focal-length", type=float, default=50.0, metavar="MM", help="default: 50"
    )
    camera.add_argument(
        "--sensor-width",
        type=float,
        default=36.0,
        metavar="MM",
        help="of what the frame shows; default: 36",
    )
    camera.add_argument(
        "--focus",
        default="auto",
        metavar="auto|X,Y|M",
        help="auto: as the focus model says; x,y: a point, from 0 (left, top) to 1; a number: a "
        "distance in metres; default: auto",
    )
    camera.add_argument(
        "--scale",
        type=float,
        metavar="M",
        help="length that relative depth is measured by, see docs/exif_defocus.md: smaller blurs "
        "more; default: what the focus model says, 0.2 without one",
    )
    camera.add_argument(
        "--sweep",
        metavar="f-number=N,...|focus=...",
        help="a photograph for each of these, of the same scene: f-numbers, or focus points and "
        "distances parted by semicolons, such as focus='0.2,0.5;0.8,0.5;2'",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the scene; default: 0")
    parser.add_argument(
        "--steps", type=int, metavar="N", help="solver steps; default: the checkpoint's"
    )
    parser.add_argument(
        "--guidance", type=float, metavar="SCALE", help="1: none; default: the checkpoint's"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder, is made")
