"""Real data from a folder, as the same questions as the generated benchmark's.

A layout (`real_layouts`) finds the files and what the set says of its cameras, and refuses a folder
that lacks something before anything is read; pictures are read when their question is asked for.

What a set does not say stays None: most say nothing of the lens. A point to focus on is needed to
ask at all, so where it is not given it is measured in the truth (`real_images.sharpest_point`) and
`point_is_measured` is set.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from bokeh_jax.errors import InvalidInput
from bokeh_jax.evaluation.focus_points import plane_near
from bokeh_jax.evaluation.questions import Point, Question
from bokeh_jax.evaluation.real_images import (
    nearest_samples,
    read_disparity,
    read_picture,
    sharpest_point,
    shrunk,
)
from bokeh_jax.evaluation.stack_alignment import aligned_slices
from bokeh_jax.optics import Lens

Picture = Float32[np.ndarray, "h w 3"]
Map = Float32[np.ndarray, "h w"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RealLens:
    """A lens in the units of its set.

    Attributes:
        focus_disparity: in those of the set's map: relative, or 1 / depth.
        blur_px: K, pixels of the set's own width per unit of that disparity.
    """

    focus_disparity: float
    blur_px: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class RealQuestion:
    """Files of one question, and what its set says; None is unknown.

    Attributes:
        name: unlike that of any other question of the set.
        scene: photographs of one view.
        task: of `questions.TASKS`.
        subset: name of the set.
        image: the reference.
        truth: the photograph asked for.
        all_in_focus: the view sharp everywhere.
        disparity: map of the view.
        is_depth: the map holds depth.
        reference: lens of `image`.
        target: lens of `truth`.
        focus_point: where `truth` is focused.
        stack: all slices of the focal stack that `image` and `truth` are of, in order; they and
            `all_in_focus` are laid on one another (`stack_alignment`).
    """

    name: str
    scene: str
    task: str
    subset: str
    image: Path
    truth: Path
    all_in_focus: Path | None = None
    disparity: Path | None = None
    is_depth: bool = False
    reference: RealLens | None = None
    target: RealLens | None = None
    focus_point: Point | None = None
    stack: tuple[Path, ...] = ()


# Of what is sharp everywhere; its plane of focus means nothing.
ALL_IN_FOCUS = RealLens(focus_disparity=0.0, blur_px=0.0)
Layout = Callable[[Path, str], Sequence[RealQuestion]]


@dataclasses.dataclass(frozen=True)
class RealSet:
    """A layout that is known.

    Attributes:
        find: (folder, split) -> its questions.
        splits: the first is the default.
        pattern: what the folder must hold, for errors and help.
    """

    find: Layout
    splits: tuple[str, ...]
    pattern: str


def find_questions(
    sets: Mapping[str, RealSet], kind: str, folder: str | Path, split: str | None = None
) -> Sequence[RealQuestion]:
    """Lists the questions of a folder; reads no picture.

    Args:
        sets: the layouts: `real_layouts.REAL_SETS`.
        kind: key of it.
        folder: of the data.
        split: of the set; None takes its usual test split.

    Raises:
        InvalidInput: an unknown kind or split, or something is missing.
    """
    if kind not in sets:
        raise InvalidInput(f"kind is {kind!r}; allowed: {', '.join(sets)}")
    real, folder = sets[kind], Path(folder)
    if split is not None and split not in real.splits:
        raise InvalidInput(f"split of {kind} is {split!r}; allowed: {', '.join(real.splits)}")
    if not folder.is_dir():
        raise InvalidInput(f"folder {folder} not found; allowed for {kind}: {real.pattern}")
    return real.find(folder, split or real.splits[0])


def read_questions(
    found: Sequence[RealQuestion], *, max_side_px: int | None = None
) -> Iterator[Question]:
    """Reads the questions' pictures, one question after the other.

    Args:
        found: of `find_questions`.
        max_side_px: pictures whose longer side is longer are made this small, and blur with them;
            None keeps their size.

    Raises:
        InvalidInput: a file that cannot be read, or pictures of one view that differ in size.
    """
    if max_side_px is not None and max_side_px < 16:
        raise InvalidInput(f"max_side_px is {max_side_px}; allowed: 16 or more")
    # Of one stack, which many questions are about.
    aligned = functools.lru_cache(maxsize=1)(_aligned_pictures)
    for files in found:
        yield _read(files, max_side_px, aligned)


def _read(
    files: RealQuestion, max_side_px: int | None, aligned: Callable[..., dict[Path, Picture]]
) -> Question:
    sharp = () if files.all_in_focus is None else (files.all_in_focus,)
    if files.stack:
        pictures = aligned(files.stack + sharp)
    else:
        pictures = _read_pictures((files.image, files.truth, *sharp))
    frame = pictures[files.image].shape[:2]
    image, truth = (shrunk(pictures[path], max_side_px) for path in (files.image, files.truth))
    others = [shrunk(pictures[p], max_side_px) for p in files.stack if p != files.truth]
    disparity, span = None, (0.0, 1.0)
    if files.disparity is not None:
        disparity, span = read_disparity(files.disparity, is_depth=files.is_depth)
        _check_size(files.disparity, disparity.shape, files.image, frame)
        disparity = nearest_samples(disparity, truth.shape[:2])
    scale = truth.shape[1] / frame[1]
    reference, target = (_lens(lens, span, scale) for lens in (files.reference, files.target))
    point = files.focus_point or _point_of(target, disparity)
    measured = point is None and files.task != "deblur"
    if measured:
        point = sharpest_point(truth, others)
    return Question(
        name=files.name,
        scene=files.scene,
        task=files.task,
        subset=files.subset,
        image=image,
        truth=truth,
        disparity=disparity,
        true_disparity=disparity,
        all_in_focus=shrunk(pictures[sharp[0]], max_side_px) if sharp else None,
        reference=reference,
        target=target,
        reference_point=_point_of(reference, disparity),
        # With blur 0 any point will do.
        focus_point=point or (0.5, 0.5),
        point_is_measured=measured,
    )


def _read_pictures(paths: Sequence[Path]) -> dict[Path, Picture]:
    """Photographs of one view, which have one size."""
    pictures: dict[Path, Picture] = {}
    for path in dict.fromkeys(paths):
        pictures[path] = read_picture(path)
        _check_size(path, pictures[path].shape, paths[0], pictures[paths[0]].shape[:2])
    return pictures


def _aligned_pictures(paths: tuple[Path, ...]) -> dict[Path, Picture]:
    read = _read_pictures(paths)
    return dict(zip(read, aligned_slices(list(read.values()), [p.name for p in read]), strict=True))


def _point_of(lens: Lens | None, disparity: Map | None) -> Point | None:
    """A pixel that lies in the plane a lens is focused on, or comes closest to it."""
    if lens is None or disparity is None:
        return None
    return plane_near(disparity, float(lens.focus_disparity), np.ones(disparity.shape, bool)).point


def _lens(lens: RealLens | None, span: tuple[float, float], scale: float) -> Lens | None:
    """A lens for relative disparity: 0 and 1 stand for `span`; and for pictures made smaller."""
    if lens is None:
        return None
    low, high = span
    return Lens(
        focus_disparity=(lens.focus_disparity - low) / (high - low),
        blur_px=lens.blur_px * (high - low) * scale,
    )


def _check_size(
    path: Path, shape: tuple[int, ...], image_path: Path, frame: tuple[int, ...]
) -> None:
    if shape[:2] != frame:
        raise InvalidInput(
            f"file {path} has {shape[1]}x{shape[0]} px; allowed: {frame[1]}x{frame[0]} px, as "
            f"{image_path} of its view"
        )
