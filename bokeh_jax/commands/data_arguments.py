"""Arguments of `bokeh-jax data`; imports nothing heavy, so that --help is quick."""

import argparse
from pathlib import Path

BUILD_EPILOG = """\
examples:
  bokeh-jax data build --out data/demo --max-layers 2
  bokeh-jax data build --out data/mine --size 256 --size 512 --ratios 1:1,3:2,2:3 \\
      --source photos=PHOTOS --source layered=2000 --weight photos=3 --style rich
  bokeh-jax data build --out data/large --size 512 --source photos='shards/x-{000..999}.tar' \\
      --runner FlinkRunner --beam-options='--flink_master=HOST:8081 --parallelism=64'

A build that was killed continues when it is started again with the same arguments; the files are
the same, byte for byte. What was skipped, and why, is listed in manifest.jsonl in the dataset.
"""


def add_build_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `data build`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = BUILD_EPILOG
    parser.add_argument("--out", required=True, type=Path, help="folder of the dataset")
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="layered[=N]: N training scenes made of the photographs that scikit-image and "
        "scikit-learn ship, 2000 by default; photographer[=N]: photographs of such scenes by "
        "random real cameras; photos=WHERE: your own, a folder, a list (.jsonl, .txt) or tar "
        "shards; may be repeated; default: layered",
    )
    _add_content_arguments(parser.add_argument_group("scenes"))
    _add_photographer_arguments(parser.add_argument_group("the photographer"))
    _add_photo_arguments(parser.add_argument_group("your photographs"))
    add_text_arguments(parser.add_argument_group("captions"))
    _add_writing_arguments(parser.add_argument_group("writing"))


def _add_content_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--size",
        action="append",
        type=int,
        metavar="PX",
        help="side of a stored square frame; frames of other ratios have as many pixels; may be "
        "repeated: a photograph takes the largest that it fills; default: 48",
    )
    group.add_argument(
        "--ratios",
        default="1:1",
        metavar="W:H,...",
        help="aspect ratios that frames may have, such as 1:1,3:2,2:3; default: 1:1",
    )
    group.add_argument(
        "--multiple", type=int, default=1, metavar="PX", help="sides are multiples of; default: 1"
    )
    group.add_argument(
        "--count",
        action="append",
        default=[],
        metavar="SPLIT=N",
        help="scenes of a split from each source, at most as many as it has; may be repeated; "
        "default: eval_seen and eval_heldout an eighth of train, up to 128; photos: all",
    )
    group.add_argument(
        "--weight",
        action="append",
        default=[],
        metavar="NAME=W",
        help="share of training that comes from a source, relative to the others, whose weight is "
        "1; without --weight scenes of all sources count alike; a second source of one kind is "
        "named photos-2, and so on",
    )
    group.add_argument("--seed", type=int, default=0)
    group.add_argument("--max-layers", type=int, default=4, help="of layered scenes, 2 to 8")
    group.add_argument(
        "--style",
        choices=("plain", "rich", "compact"),
        default="plain",
        help="rich: layered scenes with hair, panes of glass and small lights as well; compact: "
        "with things that are neither thin nor perforated, for small frames",
    )
    group.add_argument(
        "--textures",
        type=Path,
        metavar="DIR",
        help="photographs that layered scenes are cut from; default: those that scikit-image and "
        "scikit-learn ship",
    )


def _add_photographer_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--photographer-blur",
        default="0:0.05",
        metavar="LEAST:MOST",
        help="widest radius of the blur of every photograph that is not deep, over its width; "
        "default: 0:0.05",
    )
    group.add_argument(
        "--photographer-deep",
        type=float,
        default=0.15,
        metavar="SHARE",
        help="of photographs at f/16 or narrower; default: 0.15",
    )
    group.add_argument(
        "--photographer-subjects",
        metavar="NAME=W,...",
        help="how often the nearest thing is focused on, the most central one, and any, the "
        "backdrop too; default: nearest=0.45,central=0.35,any=0.2",
    )


def _add_photo_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--photos", metavar="WHERE", help="for --source photos without =WHERE")
    group.add_argument(
        "--heldout", type=float, default=0.1, metavar="SHARE", help="kept for eval_heldout"
    )
    group.add_argument(
        "--map-kind",
        choices=("disparity", "depth"),
        help="which maps count where both may be there; default: whichever is",
    )
    group.add_argument(
        "--disparity-unit",
        choices=("relative", "metric"),
        default="relative",
        help="of disparity maps: relative to [0, 1], or metric, 1/m",
    )
    group.add_argument(
        "--depth-unit-m",
        type=float,
        metavar="M",
        help="metres that 1 stands for in a depth map of integers, such as 0.001",
    )
    group.add_argument(
        "--normalize", action="store_true", help="stretch every float map of no scale to [0, 1]"
    )
    group.add_argument(
        "--invalid",
        choices=("refuse", "fill"),
        default="refuse",
        help="maps with invalid samples: skip the photograph, or fill them in",
    )
    group.add_argument(
        "--sharpness",
        default="off",
        metavar="PX|off",
        help="drop photographs whose edges are more blurred than this, in pixels of the stored "
        "frame, such as 0.8; default: off",
    )
    group.add_argument(
        "--depth-model",
        type=Path,
        metavar="DIR",
        help="estimates disparity for photographs without a map: a depth estimation model of "
        "Hugging Face on this machine (other than Depth Anything: extra interop)",
    )


def add_text_arguments(group: argparse._ArgumentGroup) -> None:
    """Arguments of builds that store captions' embeddings."""
    group.add_argument(
        "--text-encoder",
        type=Path,
        metavar="DIR",
        help="store what a FLUX transformer is told of the captions: the folder of a FLUX pipeline "
        "in diffusers' layout, of which text_encoder, text_encoder_2, tokenizer and tokenizer_2 "
        "are read (extra interop)",
    )
    group.add_argument(
        "--text-tokens",
        type=int,
        metavar="N",
        help="tokens a caption is cut or padded to, 1 to 512; default: 128",
    )


def _add_writing_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--jpeg-quality",
        type=int,
        metavar="1..100",
        help="store photographs as JPEG, such as 95; default: as PNG, without loss",
    )
    group.add_argument(
        "--max-damaged-share",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="the build fails when more of the scenes are damaged; default: 0.05",
    )
    group.add_argument(
        "--scenes-per-shard", type=int, metavar="N", help="default: 16 to 1024, by their number"
    )
    group.add_argument("--workers", type=int, help="processes; default: one a core")
    group.add_argument(
        "--runner",
        metavar="NAME",
        help="make the shards with Apache Beam (extra beam): DirectRunner, FlinkRunner, "
        "SparkRunner, DataflowRunner, ...; its machines must all see --out and the photographs",
    )
    group.add_argument(
        "--beam-options",
        default="",
        metavar="'--NAME=VALUE ...'",
        help="options of Beam in one argument, written --beam-options='--region=...'",
    )
    group.add_argument(
        "--overwrite", action="store_true", help="replace a dataset or a build of another recipe"
    )


def add_latents_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `data latents`."""
    parser.add_argument(
        "--config", required=True, help="experiment: scenes, simulation, codec, its parameters"
    )
    parser.add_argument("--out", required=True, type=Path, help="folder of the dataset")
    parser.add_argument("--variants", type=int, default=4, metavar="N", help="of every scene")
    parser.add_argument("--seed", type=int, default=0, help="of crops and cameras")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="made at once")
    parser.add_argument("--overwrite", action="store_true", help="replace another dataset")
    add_text_arguments(parser.add_argument_group("captions"))


def add_inspect_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `data inspect`."""
    parser.add_argument(
        "--config", default="configs/demo.py", help="experiment whose cameras take the pairs"
    )
    parser.add_argument("--split", default="train")
    parser.add_argument("--scenes", type=int, default=8, help="rows of the sheet")
    parser.add_argument("--seed", type=int, default=0, help="of crops and cameras")
    parser.add_argument("--out", type=Path, default=Path("contact_sheet.png"), help="image file")
