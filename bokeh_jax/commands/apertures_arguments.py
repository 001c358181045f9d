"""Arguments of `bench apertures`; imports nothing heavy, so that --help is quick."""

import argparse
from pathlib import Path

_EPILOG = """\
Every prompt is made into one scene, photographed at each f-number with one focus, and at the widest
with the nearest, the middle and the farthest depth in focus. OUT gets apertures.json (means with
bootstrap 95 % intervals) and apertures.csv (every scene); docs/generate.md says what is measured.

example:
  bokeh-jax bench apertures --checkpoint=runs/generate --depth-model=runs/depth --out=runs/apertures
"""


def add_apertures_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `bokeh-jax bench apertures`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument(
        "--checkpoint", required=True, type=Path, help="run with task 'generate' or 'defocus'"
    )
    parser.add_argument("--depth-model", type=Path, metavar="DIR", help="as of `generate`")
    parser.add_argument(
        "--focus-model",
        type=Path,
        metavar="RUN",
        help="as of `generate`; without one the depth of the middle is in focus",
    )
    parser.add_argument(
        "--tokens",
        type=Path,
        metavar="RUN",
        help="the baseline, a run with generation.exif_tokens=true, asked the same beside it",
    )
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="one a line; default: captions of the dataset that the generator was trained on",
    )
    parser.add_argument("--split", default="eval_heldout", help="of it; default: eval_heldout")
    parser.add_argument("--scenes", type=int, default=32, metavar="N", help="default: 32")
    parser.add_argument(
        "--f-numbers", default="1.4,2,2.8,4,5.6,8,11,16,22", metavar="N,...", help="of a sweep"
    )
    parser.add_argument("--focal-length", type=float, default=50.0, metavar="MM")
    parser.add_argument(
        "--scale", type=float, metavar="M", help="as of `generate`; default: the focus model's"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder, is made")
