"""Arguments of the benchmark's commands; imports nothing heavy, so that --help is quick."""

import argparse
from pathlib import Path

BENCHMARK_EPILOG = """\
examples:
  bokeh-jax data benchmark --out data/refocus-bench
  bokeh-jax data benchmark --out data/large --size 512 --ratios 3:2 --textures PHOTOS
"""
QUESTIONS_EPILOG = """\
examples:
  bokeh-jax data questions data/refocus-bench --sheet bench.png
  bokeh-jax data questions DPDD --kind dpdd --sheet dpdd.png --max-side 512
  bokeh-jax data questions STACKS --kind stack
"""


def add_benchmark_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `data benchmark`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = BENCHMARK_EPILOG
    parser.add_argument("--out", required=True, type=Path, help="folder of the benchmark")
    parser.add_argument("--scenes", type=int, help="default: 150")
    parser.add_argument(
        "--size",
        action="append",
        type=int,
        metavar="PX",
        help="side of square frames; those of other ratios have as many pixels; may be repeated; "
        "default: 96, 128, 192 and 256",
    )
    parser.add_argument("--ratios", metavar="W:H,...", help="default: 1:1,3:2,2:3,16:9")
    parser.add_argument(
        "--blur",
        metavar="K,...",
        help="blur levels: radius per unit disparity, in image widths; default: 0.03,0.06,0.12",
    )
    parser.add_argument("--seed", type=int, help="default: 150")
    parser.add_argument(
        "--textures",
        type=Path,
        metavar="DIR",
        help="photographs that scenes are cut from, of which only those are used that `data build` "
        "holds out; default: the held-out ones of scikit-image and scikit-learn",
    )


def add_questions_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `data questions`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = QUESTIONS_EPILOG
    parser.add_argument("folder", type=Path, help="of the benchmark or of the real data")
    parser.add_argument(
        "--kind",
        default="benchmark",
        help="benchmark, dpdd, realdof, ebb, realbokeh, blb, stack or triples; default: benchmark",
    )
    parser.add_argument("--split", help="of real data that has several")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="draw some of the questions")
    parser.add_argument("--rows", type=int, default=12, help="of the sheet")
    parser.add_argument(
        "--max-side", type=int, metavar="PX", help="real pictures are made this small; default: no"
    )
