"""Steps whose loss or gradients are not finite: found on the device, decided by policy on the host.

Inside the compiled step, whatever the policy:

    ok = isfinite(loss) and isfinite(‖∇L‖)
    (params, moments, ema) ← updated where ok, else as they were;  step ← step + 1

so that no state is ever poisoned. The flag, the names of what was not finite and the batch's scene
ids leave the step with its metrics and merge on the device as those do. The host reads them with
the report, one step late, and before a save; never at every step. All are values of the whole job,
so every process takes the same decision at the same step. `training.on_nonfinite` says which:

    stop        the job ends (exit code 76) and saves nothing
    skip        it goes on
    rollback    it goes back to the newest checkpoint, and does not run that step again

A step is a pure function of state and batch, so on hardware that repeats its results `skip` and
`rollback` end in the same state; `rollback` also drops what was trained since the checkpoint.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics as clu_metrics
from jaxtyping import Array, Bool, Float, Integer

from bokeh_jax.config import ExperimentConfig
from bokeh_jax.training.log import log

PyTree = Any
EXIT_NONFINITE = 76
FILE = "nonfinite.jsonl"
# Nothing will come of a run that has not made a single update in so many steps.
MAX_LOST_STEPS = 50
MAX_ROLLBACKS = 10
_SHOWN_SCENES = 16


def is_usable(loss: Float[Array, ""], gradient_norm: Float[Array, ""]) -> Bool[Array, ""]:
    """Whether a step's update may be applied."""
    return jnp.isfinite(loss) & jnp.isfinite(gradient_norm)


def keep_unless(usable: Bool[Array, ""], updated: PyTree, state: PyTree) -> PyTree:
    """The updated state where the step was usable; else `state`, one step on."""
    kept = dataclasses.replace(state, step=updated.step)
    return jax.tree.map(lambda new, old: jnp.where(usable, new, old), updated, kept)


@flax.struct.dataclass
class LostSteps(clu_metrics.Metric):
    """Which steps of a window were not applied; of the first one also why, and of which scenes.

    Attributes:
        count: of such steps, int32 [].
        first_step: number of the first one, int32 []; the first step of a run is 1.
        not_finite: which of `names`, bool [p].
        scene_id: of its global batch, int32 [b].
        names: static; of loss parts and norms.
    """

    # Unchecked: JAX rebuilds pytrees with whatever stands for their leaves.
    count: Any
    first_step: Any
    not_finite: Any
    scene_id: Any
    names: tuple[str, ...] = flax.struct.field(pytree_node=False, default=())

    @classmethod
    def of_step(
        cls,
        usable: Bool[Array, ""],
        step: Integer[Array, ""],
        checked: Mapping[str, Float[Array, ""]],
        scene_id: Integer[Array, " b"],
    ) -> "LostSteps":
        """Of the one step that makes `step`; `checked` are values that are to be finite."""
        return cls(
            count=jnp.where(usable, 0, 1).astype(jnp.int32),
            first_step=step,
            not_finite=~jnp.isfinite(jnp.stack(list(checked.values()))),
            scene_id=scene_id,
            names=tuple(checked),
        )

    @classmethod
    def from_model_output(cls, lost_steps: "LostSteps", **_: Any) -> "LostSteps":
        """As a metric of a collection: takes what `of_step` made."""
        return lost_steps

    def merge(self, other: "LostSteps") -> "LostSteps":
        """Of the steps of both; `other` is later."""
        mine = self.count > 0
        first = jax.tree.map(lambda own, its: jnp.where(mine, own, its), self, other)
        return first.replace(count=self.count + other.count)

    def compute(self) -> Integer[Array, ""]:
        """How many."""
        return self.count


@dataclasses.dataclass(frozen=True)
class LostStep:
    """One step that was not applied.

    Attributes:
        step: its number; the first step of a run is 1.
        not_finite: what was not: loss parts, `gradient_norm`.
        scene_id: of its global batch, in order.
    """

    step: int
    not_finite: tuple[str, ...]
    scene_id: tuple[int, ...]

    def __str__(self) -> str:
        scenes = ", ".join(map(str, self.scene_id[:_SHOWN_SCENES]))
        more = len(self.scene_id) - _SHOWN_SCENES
        return (
            f"step {self.step} is not finite in {', '.join(self.not_finite)}; its batch holds "
            f"scenes {scenes}{f' and {more} more ({FILE})' if more > 0 else ''}"
        )


class NonfiniteStep(Exception):
    """The policy forbids the loop to go on after a step.

    Attributes:
        lost: that step.
        may_roll_back: the run may go on from its newest checkpoint.
    """

    def __init__(self, lost: LostStep, reason: str, *, may_roll_back: bool):
        super().__init__(f"{lost}; {reason}")
        self.lost, self.may_roll_back = lost, may_roll_back


@jax.jit
def pass_over(step: Integer[Array, ""]) -> Integer[Array, ""]:
    """The number of updates in a state that leaves one out."""
    return step + 1


@dataclasses.dataclass
class Judge:
    """Reads what windows of steps have lost and applies the policy; remembers for how long already.

    Attributes:
        policy: `training.on_nonfinite`.
        path: file that the main process appends one line a finding to; None on the others.
        fruitless_steps: so many steps in a row, up to the last window, were all lost.
    """

    policy: str
    path: Path | None
    fruitless_steps: int = 0

    @property
    def reads_before_saves(self) -> bool:
        """Whether a save has to wait for the verdict on the steps that it holds."""
        return self.policy != "skip"

    def check(self, metrics: Any, steps: int) -> None:
        """Reads a window of `steps` steps (waits for its last one).

        Args:
            metrics: of the window; a collection with `lost_steps`.
            steps: how many it holds.

        Raises:
            NonfiniteStep: a step was lost and the policy is not `skip`, or nothing but lost steps
                came for `MAX_LOST_STEPS` steps.
        """
        found: LostSteps = jax.device_get(metrics.lost_steps)
        count = int(found.count)
        if not count:
            self.fruitless_steps = 0
            return
        names = np.asarray(found.names)[found.not_finite]
        lost = LostStep(
            int(found.first_step), tuple(names.tolist()), tuple(found.scene_id.tolist())
        )
        self._note(lost, count)
        self.fruitless_steps = self.fruitless_steps + count if count == steps else 0
        if self.fruitless_steps >= MAX_LOST_STEPS:
            reason = f"none of the last {self.fruitless_steps} steps could be applied"
            raise NonfiniteStep(lost, reason, may_roll_back=False)
        if self.policy == "skip":
            others = f", and {count - 1} more of {steps} steps" if count > 1 else ""
            log(f"{lost}; skipped{others} (training.on_nonfinite=skip)")
            return
        reason = f"training.on_nonfinite={self.policy}"
        raise NonfiniteStep(lost, reason, may_roll_back=self.policy == "rollback")

    def _note(self, lost: LostStep, count: int) -> None:
        if self.path is None:
            return
        line = dataclasses.asdict(lost) | {"policy": self.policy, "steps_in_window": count}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def make_judge(config: ExperimentConfig, workdir: Path) -> Judge:
    """The run's judge; the main process also writes findings to <workdir>/nonfinite.jsonl."""
    path = workdir / FILE if jax.process_index() == 0 else None
    return Judge(config.training.on_nonfinite, path)
