"""Arguments of `bokeh-jax checkpoint`; imports nothing heavy."""

import argparse


def add_ls_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `checkpoint ls`."""
    _add_workdir(parser)


def add_inspect_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `checkpoint inspect`."""
    _add_workdir(parser)
    parser.add_argument("--step", type=int, help="default: the newest")
    parser.add_argument(
        "--config", help="show where its config differs from this file's; default: the defaults"
    )
    parser.add_argument(
        "--norms", action="store_true", help="read the parameters and show their norms"
    )


def add_verify_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `checkpoint verify`."""
    _add_workdir(parser)
    parser.add_argument("--step", type=int, help="only this one; default: all")


def add_prune_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `checkpoint prune`."""
    _add_workdir(parser)
    parser.add_argument(
        "--keep", type=int, required=True, metavar="N", help="the newest N stay (1 or more)"
    )
    parser.add_argument(
        "--keep-every",
        type=int,
        default=0,
        metavar="K",
        help="so do those of every K-th step; default: 0, none",
    )
    parser.add_argument(
        "--damaged", action="store_true", help="remove what --restore=latest_good moved aside too"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")


def _add_workdir(parser: argparse.ArgumentParser) -> None:
    # A text, not a Path: it may be gs://BUCKET/FOLDER.
    parser.add_argument(
        "--workdir", required=True, help="folder of a training run, or gs://BUCKET/FOLDER"
    )
