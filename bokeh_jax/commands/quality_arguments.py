"""Arguments of `bench quality`; imports nothing heavy, so that --help is quick."""

import argparse
from pathlib import Path

from bokeh_jax.command_line import add_job_arguments

_EPILOG = """\
examples:
  bokeh-jax bench quality --checkpoint=runs/demo --out=runs/demo/quality
  bokeh-jax bench quality --out=baselines --scenes=20 --core
  bokeh-jax bench quality --checkpoint=runs/demo --suite=dpdd:DPDD --max-side=512 --out=dpdd
"""


def add_quality_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `bokeh-jax bench quality`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument("--out", required=True, type=Path, help="folder of the scores")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        help="--workdir of a training run; without it the methods that need no network answer",
    )
    parser.add_argument("--step", type=int, help="checkpoint step; default: the newest")
    parser.add_argument("--raw", action="store_true", help="the raw parameters instead of the EMA")
    parser.add_argument(
        "--suite",
        default="data/refocus-bench",
        metavar="FOLDER",
        help="the benchmark, built where it is missing; or KIND:FOLDER of real data, as in "
        "dpdd:DPDD (see 'data questions'); default: data/refocus-bench",
    )
    parser.add_argument("--scenes", type=int, metavar="N", help="only the first N")
    parser.add_argument(
        "--core",
        action="store_true",
        help="only the third of the benchmark in which planes, blurs and tasks are equally many",
    )
    parser.add_argument(
        "--max-side", type=int, metavar="PX", help="real pictures are made this small"
    )
    parser.add_argument(
        "--blur", type=float, help="what to ask for where real data does not say its blur"
    )
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="DIR",
        help="weights of LPIPS, DISTS, CLIP-I and MUSIQ (docs/metrics.md); default: none",
    )
    add_job_arguments(parser)
