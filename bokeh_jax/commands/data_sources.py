"""The sources that a command line asks for, as one source and what is taken from it."""

import argparse
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from bokeh_jax.errors import InvalidInput
from data_pipeline.frames import FrameSizes
from data_pipeline.mixture import MixtureSource, Part
from data_pipeline.source import SPLITS, SceneSource, check_split

SOURCES = ("layered", "photographer", "photos")
DEFAULT_SIZE_PX = 48
DEFAULT_TRAIN_SCENES = 2000
# Endless sources give eval splits this share of the training scenes, up to so many.
EVAL_SHARE, MAX_EVAL_SCENES = 1 / 8, 128


def mixture_of(arguments: argparse.Namespace) -> MixtureSource:
    """Returns the mixture that the arguments of `data build` describe.

    Raises:
        InvalidInput: a value that is no such source, number or weight; or as the sources.
    """
    limits = {name: _whole("--count", name, text) for name, text in _pairs(arguments, "count")}
    for split in limits:
        check_split(split)
    weights = {name: _number("--weight", name, text) for name, text in _pairs(arguments, "weight")}
    frames = FrameSizes(
        sizes_px=tuple(arguments.size or (DEFAULT_SIZE_PX,)),
        ratios=tuple(arguments.ratios.split(",")),
        multiple_px=arguments.multiple,
    )
    parts: list[Part] = []
    for text in arguments.source or ["layered"]:
        kind, _, value = text.partition("=")
        if kind not in SOURCES:
            raise InvalidInput(f"--source is {text!r}; allowed: {', '.join(SOURCES)}")
        source, train = _source(kind, value, frames, arguments)
        earlier = sum(part.source.name == kind for part in parts)
        name = kind if not earlier else f"{kind}-{earlier + 1}"
        counts = _counts(source, train, limits)
        parts.append(Part(source, counts, name, weights.pop(name, None)))
    if weights:
        raise InvalidInput(
            f"--weight is for {', '.join(weights)}; allowed: {', '.join(p.name for p in parts)}"
        )
    return MixtureSource(tuple(parts))


def _source(
    kind: str, value: str, frames: FrameSizes, arguments: argparse.Namespace
) -> tuple[SceneSource, int]:
    """Makes a source -> (the source, training scenes wanted where it is endless)."""
    if kind == "photos":
        return _photos(value or arguments.photos, frames, arguments), 0
    from data_pipeline.layered import STYLES, LayeredSource

    train = _whole("--source", kind, value) if value else DEFAULT_TRAIN_SCENES
    from data_pipeline.layered.texture_folder import folder_textures
    from data_pipeline.layered.textures import load_textures

    folder = arguments.textures
    scenes = LayeredSource(
        frames=frames,
        textures=load_textures() if folder is None else folder_textures(folder),
        seed=arguments.seed,
        max_layers=arguments.max_layers,
        style=STYLES[arguments.style],
    )
    if kind == "layered":
        return scenes, train
    return _photographer(scenes, arguments), train


def _photographer(scenes: Any, arguments: argparse.Namespace) -> SceneSource:
    from data_pipeline.layered.photographer import PhotographerSource
    from data_pipeline.layered.subjects import Habits

    flag = "--photographer-blur"
    least, colon, most = arguments.photographer_blur.partition(":")
    if not colon:
        raise InvalidInput(f"{flag} is {least!r}; allowed: LEAST:MOST such as 0.05:0.1")
    habits = Habits()
    if arguments.photographer_subjects is not None:
        flag_of = "--photographer-subjects"
        given = [text.partition("=") for text in arguments.photographer_subjects.split(",")]
        if unknown := [name for name, _, _ in given if name not in Habits._fields]:
            raise InvalidInput(
                f"{flag_of} has {unknown[0]!r}; allowed: {', '.join(Habits._fields)}, each =WEIGHT"
            )
        weights = {name: _number(flag_of, name, weight) for name, _, weight in given}
        habits = Habits(**dict.fromkeys(Habits._fields, 0.0) | weights)
    return PhotographerSource(
        scenes,
        max_blur_fraction=_number(flag, "", most),
        deep_rate=arguments.photographer_deep,
        least_blur_fraction=_number(flag, "", least),
        habits=habits,
    )


def _photos(where: Any, frames: FrameSizes, arguments: argparse.Namespace) -> SceneSource:
    if not where:
        raise InvalidInput(
            "--photos is not given; allowed with --source photos: a folder, a list or tar shards, "
            "or --source photos=WHERE"
        )
    from data_pipeline.photos.source import PhotoSource

    if arguments.runner is not None:
        # Its processes may stand in another folder.
        where = os.path.abspath(where)
    max_blur_px = None
    if arguments.sharpness != "off":
        max_blur_px = _number("--sharpness", "", arguments.sharpness)
    estimator = None
    if arguments.depth_model is not None:
        from bokeh_jax.commands.depth_estimator import depth_estimator

        estimator = depth_estimator(arguments.depth_model)
    return PhotoSource(
        where,
        frames=frames,
        seed=arguments.seed,
        heldout_fraction=arguments.heldout,
        disparity_unit=arguments.disparity_unit,
        normalize=arguments.normalize,
        map_kind=arguments.map_kind,
        depth_unit_m=arguments.depth_unit_m,
        invalid=arguments.invalid,
        max_blur_px=max_blur_px,
        estimator=estimator,
    )


def _counts(source: SceneSource, train: int, limits: Mapping[str, int]) -> dict[str, int]:
    """Returns how many candidates of every split to take."""
    share = min(MAX_EVAL_SCENES, math.ceil(EVAL_SHARE * train))
    counts = {}
    for split in SPLITS:
        available = source.num_scenes(split)
        if available is None:
            counts[split] = limits.get(split, train if split == "train" else share)
        else:
            counts[split] = min(available, limits.get(split, available))
    return counts


def _pairs(arguments: argparse.Namespace, name: str) -> Sequence[tuple[str, str]]:
    """Splits the values of a flag at '='."""
    example = {"count": "SPLIT=N such as train=2000", "weight": "NAME=W such as photos=0.5"}[name]
    pairs = []
    for text in getattr(arguments, name):
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            raise InvalidInput(f"--{name} is {text!r}; allowed: {example}")
        pairs.append((key, value))
    return pairs


def _whole(flag: str, name: str, text: str) -> int:
    # isdecimal, not isdigit: int() cannot read "²".
    if not text.isdecimal():
        raise InvalidInput(f"{flag} is '{name}={text}'; allowed: {name}=N with a whole number N")
    return int(text)


def _number(flag: str, name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        given = f"{name}={text}" if name else text
        raise InvalidInput(f"{flag} is {given!r}; allowed: a number") from None
