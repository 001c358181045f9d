"""A benchmark's questions, answered and scored: one row a question and method.

Besides what one answer is worth (`scores`), answers to questions that differ in one thing only say
whether the control works:

    blur sweep    same photograph and plane, rising blur: LVCorr, blur range
    focus sweep   same photograph and blur, several planes: stacking consistency

Intervals are taken over scenes: questions of one scene are not independent, so a scene counts with
the mean of its rows.
"""

import collections
import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from bokeh_jax.evaluation import sharpness
from bokeh_jax.evaluation.answers import Answers, answer_question
from bokeh_jax.evaluation.consistency import stacking_rms
from bokeh_jax.evaluation.metrics import Mean
from bokeh_jax.evaluation.perceptual.registry import PerceptualMetric
from bokeh_jax.evaluation.questions import Question
from bokeh_jax.evaluation.scores import prepare, score_answer
from bokeh_jax.evaluation.statistics import bootstrap_mean
from bokeh_jax.inference.refocuser import Refocuser
from bokeh_jax.optics import Lens, in_focus_weights

SWEEP_METRICS = (
    "lvcorr_genphoto",
    "lvcorr_genrefocus",
    "lvcorr_rank",
    "blur_range_stops",
    "stacking_rms",
)
# Of the stacking weights, as in training (simulation.stacking_softness_px).
_SOFTNESS_PX = 0.5


@dataclasses.dataclass(frozen=True)
class Row:
    """Scores of one answer, or of the answers to one sweep.

    Attributes:
        subset, task, scene: of the question.
        question: its name; of a sweep, what its questions share.
        method: which answered.
        scores: metric -> value; NaN where it could not be measured.
    """

    subset: str
    task: str
    scene: str
    question: str
    method: str
    scores: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class _Answered:
    question: Question
    answers: Answers


def score_questions(
    questions: Iterable[Question],
    refocuser: Refocuser | None,
    *,
    perceptual: Mapping[str, PerceptualMetric | None],
    blur: float | None = None,
) -> Iterator[Row]:
    """Rows of all questions, and of the sweeps among those of one scene, scene by scene.

    Args:
        questions: those of one scene behind each other.
        refocuser: the network; None for the methods without one.
        perceptual: metrics with weights, by name; None for those without.
        blur: what to ask for where a question does not say.
    """
    scene: list[_Answered] = []
    for question in questions:
        if scene and scene[0].question.scene != question.scene:
            yield from _sweeps(scene)
            scene = []
        answered = _Answered(question, answer_question(question, refocuser, blur=blur))
        scene.append(answered)
        yield from _rows(answered, perceptual)
    yield from _sweeps(scene)


def _rows(answered: _Answered, perceptual: Mapping[str, PerceptualMetric | None]) -> Iterator[Row]:
    question = answered.question
    truth = prepare(
        question.truth,
        reference=question.image,
        all_in_focus=question.all_in_focus,
        disparity=question.true_disparity,
        target=question.target,
        reference_lens=question.reference,
    )
    for method, answer in answered.answers.items():
        scores = score_answer(answer, truth)
        for name, metric in perceptual.items():
            if metric is not None:
                scores[name] = float(metric(answer[None], question.truth[None])[0])
        yield _row(question, question.name, method, scores)


def _row(question: Question, name: str, method: str, scores: Mapping[str, float]) -> Row:
    return Row(question.subset, question.task, question.scene, name, method, scores)


def _sweeps(scene: Sequence[_Answered]) -> Iterator[Row]:
    """Rows of a scene's blur sweeps and focus sweeps."""
    by_plane, by_blur = collections.defaultdict(list), collections.defaultdict(list)
    for answered in scene:
        question = answered.question
        lens = question.target
        if lens is None or question.true_disparity is None or not float(lens.blur_px):
            continue
        same = (question.subset, question.task, question.image.tobytes())
        by_plane[(*same, float(lens.focus_disparity))].append(answered)
        by_blur[(*same, float(lens.blur_px))].append(answered)
    for found in by_plane.values():
        yield from _blur_sweep(sorted(found, key=lambda one: float(_lens(one).blur_px)))
    for found in by_blur.values():
        yield from _focus_sweep(found)


def _lens(answered: _Answered) -> Lens:
    assert answered.question.target is not None
    return answered.question.target


def _shared_methods(found: Sequence[_Answered]) -> list[str]:
    return [name for name in found[0].answers if all(name in one.answers for one in found)]


def _blur_sweep(found: Sequence[_Answered]) -> Iterator[Row]:
    if len(found) < 3:
        return
    truths = np.stack([one.question.truth for one in found])
    blurs = np.asarray([float(_lens(one).blur_px) for one in found])
    for method in _shared_methods(found):
        answers = np.stack([one.answers[method] for one in found])
        scores = {
            "lvcorr_genphoto": sharpness.lvcorr_genphoto(answers, truths),
            "lvcorr_genrefocus": sharpness.lvcorr_genrefocus(answers, blurs),
            "lvcorr_rank": sharpness.lvcorr_rank(answers, blurs),
            "blur_range_stops": sharpness.blur_range_stops(answers, truths),
        }
        yield _row(found[0].question, f"{found[0].question.name} blur sweep", method, scores)


def _focus_sweep(found: Sequence[_Answered]) -> Iterator[Row]:
    disparity = found[0].question.true_disparity
    if len(found) < 2 or disparity is None:
        return
    lenses = Lens(
        focus_disparity=jnp.stack([_lens(one).focus_disparity for one in found]),
        blur_px=jnp.stack([_lens(one).blur_px for one in found]),
    )
    weights = in_focus_weights(
        jnp.asarray(disparity)[None], _batched(lenses), softness_px=_SOFTNESS_PX
    )
    weights = np.asarray(weights[0])
    truths = np.stack([one.question.truth for one in found])
    blend = np.einsum("mhw,mhwc->hwc", weights, truths)
    for method in _shared_methods(found):
        answers = np.stack([one.answers[method] for one in found])
        scores = {"stacking_rms": stacking_rms(answers, weights, blend)}
        yield _row(found[0].question, f"{found[0].question.name} focus sweep", method, scores)


def _batched(lenses: Lens) -> Lens:
    return Lens(lenses.focus_disparity[None], lenses.blur_px[None])


def summarise(rows: Iterable[Row]) -> dict[str, dict[str, dict[str, Mean]]]:
    """`SUBSET/TASK` -> method -> metric -> mean over scenes with its bootstrap interval.

    A metric that no scene could be measured by is left out.
    """
    values: dict[tuple[str, str, str], dict[str, list[float]]] = collections.defaultdict(
        lambda: collections.defaultdict(list)
    )
    for row in rows:
        for metric, value in row.scores.items():
            if math.isfinite(value):
                key = (f"{row.subset}/{row.task}", row.method, metric)
                values[key][row.scene].append(value)
    table: dict[str, dict[str, dict[str, Mean]]] = {}
    for (where, method, metric), scenes in values.items():
        means = np.asarray([np.mean(found) for found in scenes.values()])
        table.setdefault(where, {}).setdefault(method, {})[metric] = bootstrap_mean(means)
    return table
