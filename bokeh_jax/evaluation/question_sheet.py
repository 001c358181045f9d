"""Questions as a picture: what is given, what is told, what is asked for.

A row is a question: the reference, the disparity that is told, the truth, all in focus, and what
the truth changes of the reference (|truth − reference|, three times as bright). A cross marks the
point that is focused on; what is unknown is grey.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32

from bokeh_jax.errors import InvalidInput
from bokeh_jax.evaluation.contact_sheet import Cell, lay_out
from bokeh_jax.evaluation.questions import Point, Question
from bokeh_jax.evaluation.real_images import nearest_samples, shrunk
from bokeh_jax.optics import Lens

_CELL_PX = 256
_UNKNOWN = 0.5
_CROSS = (1.0, 0.1, 0.1)
_CROSS_HALF_PX = 4
_DIFFERENCE_GAIN = 3.0


def question_sheet(questions: Sequence[Question]) -> Float[np.ndarray, "h w 3"]:
    """Draws the questions, sRGB-encoded, [0, 1].

    Raises:
        InvalidInput: there are none.
    """
    if not questions:
        raise InvalidInput("the sheet has no questions; allowed: 1 or more")
    sheet = lay_out([_row(question) for question in questions], {}, cell_px=_CELL_PX)
    return np.asarray(sheet, np.float32) / 255.0


def _row(question: Question) -> list[Cell]:
    image, truth = (shrunk(p, _CELL_PX) for p in (question.image, question.truth))
    told, unknown = question.disparity, np.full_like(image, _UNKNOWN)
    gray = (
        unknown if told is None else nearest_samples(told, image.shape[:2])[..., None] + 0 * image
    )
    sharp = question.all_in_focus
    point = (
        "" if question.focus_point is None else "at {:.2f}, {:.2f}".format(*question.focus_point)
    )
    measured = " (measured)" if question.point_is_measured else ""
    return [
        (f"{question.name} {question.frame[1]}x{question.frame[0]}", image),
        ("told" if told is not None else "no disparity", _marked(gray, question.focus_point)),
        (
            f"asked: {_camera(question.target)} {point}{measured}",
            _marked(truth, question.focus_point),
        ),
        ("all in focus", unknown if sharp is None else shrunk(sharp, _CELL_PX)),
        (
            f"|truth - reference|; ref {_camera(question.reference)}",
            np.clip(_DIFFERENCE_GAIN * np.abs(truth - image), 0.0, 1.0),
        ),
    ]


def _camera(lens: Lens | None) -> str:
    if lens is None:
        return "K ?"
    return f"f {float(lens.focus_disparity):.2f} K {float(lens.blur_px):.1f}px"


def _marked(
    picture: Float32[np.ndarray, "h w 3"], point: Point | None
) -> Float32[np.ndarray, "h w 3"]:
    if point is None:
        return picture
    marked, (height_px, width_px) = picture.copy(), picture.shape[:2]
    row, column = int(point[1] * height_px), int(point[0] * width_px)
    reach = slice(max(0, row - _CROSS_HALF_PX), row + _CROSS_HALF_PX + 1)
    marked[reach, min(column, width_px - 1)] = _CROSS
    reach = slice(max(0, column - _CROSS_HALF_PX), column + _CROSS_HALF_PX + 1)
    marked[min(row, height_px - 1), reach] = _CROSS
    return marked
