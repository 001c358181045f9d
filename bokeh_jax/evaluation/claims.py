"""The papers' claims as comparisons of runs: arms that differ in one thing, on the same questions.

Arms fork from one common run and go on for the same number of steps with the same scenes, cameras
and noise: seed s of one arm meets what seed s of any other meets. The claims are those of
DiffCamera (arXiv 2509.26599); the last two of our own sampler.

    1  the stacking constraint against the plain objective; its weight, M, shared noise
    2  depth dropout and perturbation, on clean, damaged and absent disparity
    3  two stages (all in focus, then the lens blur) against direct refocusing: one run, two methods
    4  velocity against sample prediction in pixels; both from the start, as no common run can be
    5  guidance and number of sampling steps: one run, sampled several ways

A difference is taken image by image, averaged over the seeds that both arms have, and bootstrapped
over images: its interval is about the questions, not about the training. What chance in training
does is seen in the seeds' own means, which stand beside it.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from bokeh_jax.evaluation.metrics import Mean
from bokeh_jax.evaluation.statistics import bootstrap_mean

# Of a run: `SPLIT/TASK[/DISPARITY]` -> column -> values of every image.
Images = Mapping[str, Mapping[str, np.ndarray]]
PLAIN, SAMPLED = "plain", "sample"
MODEL, STACKED = "model_known_camera", "stacked_model_known_camera"
ALL_DISPARITIES = ("clean", "damaged", "absent")


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        name: of its runs.
        changes: config overrides, `group.key=value`.
        seeds: how many runs.
        forks: goes on from the common run; else from the start, for longer.
    """

    name: str
    changes: tuple[str, ...] = ()
    seeds: int = 1
    forks: bool = True


_STACKING = "objective.stacking_weight=0.5"
_DROPOUT = "objective.depth_dropout_rate=0.2"
_DAMAGE = "objective.depth_noise.rate=0.3"
ARMS = (
    Arm(PLAIN, seeds=3),
    Arm("stacking", (_STACKING,), seeds=3),
    Arm("dropout_and_damage", (_DROPOUT, _DAMAGE), seeds=3),
    Arm("stacking_2", ("objective.stacking_weight=2.0",)),
    Arm("stacking_of_3", (_STACKING, "simulation.cameras.num_targets=3")),
    Arm("separate_noise", (_STACKING, "objective.target_noise=separate")),
    Arm("low_noise", (_STACKING, "objective.stacking_time=low_noise")),
    Arm("soft_mask", (_STACKING, "simulation.stacking_softness_px=1.5")),
    Arm("dropout", (_DROPOUT,)),
    Arm("damage", (_DAMAGE,)),
    Arm(SAMPLED, ("objective.guide=False",), forks=False),
    Arm("velocity", ("objective.guide=False", "objective.prediction=velocity"), forks=False),
)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One line of the answer: ours minus theirs.

    Attributes:
        claim: its number.
        arm: ours.
        against: theirs.
        questions: `TASK` or `TASK/DISPARITY`.
        column: of ours, see `commands.evaluate.read_images`.
        against_column: of theirs.
    """

    claim: int
    arm: str
    against: str
    questions: str
    column: str = MODEL
    against_column: str = MODEL


# Arms that change something of the constraint itself.
_OF_STACKING = ("separate_noise", "low_noise", "soft_mask")


def _comparisons() -> tuple[Comparison, ...]:
    found = []
    for arm in ("stacking", "stacking_2", "stacking_of_3", *_OF_STACKING):
        against = "stacking" if arm in _OF_STACKING else PLAIN
        found += [
            Comparison(1, arm, against, "refocus"),
            Comparison(1, arm, against, "refocus", STACKED, STACKED),
        ]
    found += [Comparison(1, "stacking", PLAIN, task) for task in ("add_bokeh", "deblur")]
    for arm in ("dropout_and_damage", "dropout", "damage"):
        found += [
            Comparison(2, arm, PLAIN, "refocus"),
            Comparison(2, arm, PLAIN, "refocus/damaged"),
            Comparison(2, arm, PLAIN, "refocus/absent", "model", "model"),
        ]
    for arm in (PLAIN, "dropout_and_damage"):
        for questions in ("refocus", "refocus/damaged"):
            found.append(Comparison(3, arm, arm, questions, MODEL, "two_stage_known_camera"))
    found += [
        Comparison(4, "velocity", SAMPLED, task) for task in ("refocus", "add_bokeh", "deblur")
    ]
    return tuple(found)


COMPARISONS = _comparisons()
# Claim 5: (steps, guidance scale) of the sampler.
SAMPLERS = ((1, 1.0), (2, 1.0), (4, 1.0), (8, 1.0), (1, 1.5), (1, 2.0), (4, 1.5))


def sampler_label(num_steps: int, guidance_scale: float) -> str:
    """Under which `bokeh-jax eval --label` a sampler's scores are kept."""
    return f"steps={num_steps}.guidance={guidance_scale:g}"


def evaluations(num_steps: int, guidance_scale: float) -> int:
    """Calls of the network for one answer: two a step where guided."""
    return num_steps * (1 if guidance_scale == 1.0 else 2)


@dataclasses.dataclass(frozen=True)
class Difference:
    """Of one comparison.

    Attributes:
        ours, theirs: means over images and seeds.
        difference: of ours − theirs, over images.
        by_seed: mean difference of every seed.
    """

    ours: float
    theirs: float
    difference: Mean
    by_seed: tuple[float, ...]

    @property
    def verdict(self) -> str:
        """What the interval and the seeds allow to say."""
        low, high = self.difference.low, self.difference.high
        if low > 0.0 and min(self.by_seed) > 0.0:
            return "ahead"
        if high < 0.0 and max(self.by_seed) < 0.0:
            return "behind"
        return "not told apart"


def compare(
    comparison: Comparison, ours: Sequence[Images], theirs: Sequence[Images], split: str
) -> Difference:
    """Ours minus theirs on one split.

    Args:
        comparison: what is compared.
        ours: images of every seed of the arm.
        theirs: the same of the other; of different numbers of seeds, the first ones are paired.
        split: dataset split.

    Raises:
        ValueError: one of them has no run.
    """
    count = min(len(ours), len(theirs))
    if not count:
        raise ValueError(f"{comparison} has no run of one arm; allowed: at least one of both")
    key = f"{split}/{comparison.questions}"
    left = np.stack([images[key][comparison.column] for images in ours[:count]])
    right = np.stack([images[key][comparison.against_column] for images in theirs[:count]])
    difference = left - right
    return Difference(
        ours=float(left.mean()),
        theirs=float(right.mean()),
        difference=bootstrap_mean(difference.mean(axis=0)),
        by_seed=tuple(float(seed) for seed in difference.mean(axis=1)),
    )


def markdown(found: Sequence[tuple[Comparison, str, Difference]]) -> str:
    """The comparisons as a table: (comparison, split, difference)."""
    lines = [
        "| claim | arm | against | asked | split | ours, dB | theirs, dB | difference [95 %] "
        "| by seed | |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for comparison, split, result in found:
        stacked = ", blend" if comparison.column == STACKED else ""
        against = comparison.against
        if comparison.against == comparison.arm:
            against = "its two stages"
        mean = result.difference
        seeds = ", ".join(f"{value:+.3f}" for value in result.by_seed)
        lines.append(
            f"| {comparison.claim} | {comparison.arm} | {against} | {comparison.questions}{stacked}"
            f" | {split} | {result.ours:.2f} | {result.theirs:.2f} "
            f"| {mean.mean:+.3f} [{mean.low:+.3f}, {mean.high:+.3f}] | {seeds} "
            f"| {result.verdict} |"
        )
    return "\n".join(lines) + "\n"
