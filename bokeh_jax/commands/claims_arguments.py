"""Arguments of `bench claims`; imports nothing heavy, so that --help is quick."""

import argparse
from pathlib import Path

_EPILOG = """\
OUT/base is the common run; every arm and seed is a run of its own, OUT/ARM-SEED, evaluated as
`bokeh-jax eval` does. Runs and evaluations that are done are not done again, so a campaign that was
stopped goes on. OUT/claims.md is written anew after every arm.

examples:
  bokeh-jax data build --source=layered --max-layers=3 --count=train=8000 --out=data/small
  bokeh-jax bench claims --config=configs/refocus_small.py --out=runs/claims
  bokeh-jax bench claims --config=configs/refocus_small.py --out=runs/claims --arms=plain,stacking
"""


def add_claims_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `bokeh-jax bench claims`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument("--config", required=True, help="experiment file of the common run")
    parser.add_argument("--out", required=True, type=Path, help="folder of all runs")
    parser.add_argument(
        "--fork-steps", type=int, default=150, metavar="N", help="of a forked arm; default: 150"
    )
    parser.add_argument(
        "--fresh-steps",
        type=int,
        default=300,
        metavar="N",
        help="of an arm that starts anew; default: 300",
    )
    parser.add_argument("--arms", metavar="NAME,...", help="only these; default: all")
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="runs of an arm at most; default: 1 to 3, by claim"
    )
    parser.add_argument(
        "--samplers-of",
        metavar="RUN",
        help="the run of claim 5, a folder of OUT, such as stacking-0; default: the common run, "
        "and none where --arms are chosen",
    )
