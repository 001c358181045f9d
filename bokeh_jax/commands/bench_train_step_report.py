"""What `bokeh-jax bench train-step` measures, and what follows from it.

A turn is one step of ours and one of torch's, one after the other. Every turn gives a ratio of
times, so that what else the machine does hits both; the report has their median and range. The
ratio of processor times (user and system, all threads) is the check: it counts what the step used
and not how long it waited for a core.
"""

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

LEAST_SPEED = 0.85


@dataclasses.dataclass(frozen=True)
class Setting:
    """One network and batch, the same for both sides; named as on the command line.

    Attributes:
        hidden: width of the network.
        heads: attention heads.
        double: blocks with two streams.
        single: blocks with one stream.
        tokens: image tokens of one example.
        context: context tokens of one example.
        batch: examples of a step.
        channels: features of an image token, in and out.
        rope_axes: a head's channels for (stream, row, column).
        dtype: of the products; parameters and optimizer state are float32.
        learning_rate: of AdamW; the others are the defaults of the trainer's config.
        weight_decay: of AdamW.
        clip_norm: of the gradients.
    """

    hidden: int
    heads: int
    double: int
    single: int
    tokens: int
    context: int
    batch: int
    rope_axes: tuple[int, int, int]
    dtype: str
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    betas: tuple[float, float] = (0.9, 0.99)
    channels: int = 64

    def __str__(self) -> str:
        return (
            f"hidden {self.hidden}, {self.heads} heads, {self.double} double and {self.single} "
            f"single blocks, {self.batch} x ({self.tokens} + {self.context}) tokens, {self.dtype}"
        )


@dataclasses.dataclass(frozen=True)
class Turn:
    """Times of one step."""

    seconds: float
    cpu_seconds: float


@dataclasses.dataclass(frozen=True)
class Spread:
    """Median and range of some figures."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of one or more values."""
        return cls(statistics.median(values), min(values), max(values))

    def text(self, scale: float = 1.0, digits: int = 2) -> str:
        """Such as 1.10 (1.02 to 1.25)."""
        median, least, most = (f"{scale * x:.{digits}f}" for x in dataclasses.astuple(self))
        return f"{median} ({least} to {most})"


@dataclasses.dataclass(frozen=True)
class Side:
    """One side's network and times.

    Attributes:
        name: library and version.
        num_params: of the network.
        step_flops: operations of the step's products, as this side counts them.
        turns: of the step.
        matrix_flops_per_s: of a product of square matrices, best of each turn.
    """

    name: str
    num_params: int
    step_flops: float
    turns: list[Turn]
    matrix_flops_per_s: list[float]

    @property
    def seconds(self) -> Spread:
        """Of the step."""
        return Spread.of([turn.seconds for turn in self.turns])

    @property
    def cpu_seconds(self) -> Spread:
        """Of the step, all threads together."""
        return Spread.of([turn.cpu_seconds for turn in self.turns])


@dataclasses.dataclass(frozen=True)
class RealStep:
    """The trainer's own step, by part; seconds are medians.

    Attributes:
        config: name of the experiment.
        num_scenes: of a batch.
        step_seconds: all of it.
        simulation_seconds: photographs, conditions and losses, with a network of next to nothing.
        optimizer_seconds: clipping, AdamW and the moving average.
    """

    config: str
    num_scenes: int
    step_seconds: float
    simulation_seconds: float
    optimizer_seconds: float

    @property
    def network_seconds(self) -> float:
        """What is left: forward and backward through the network."""
        return self.step_seconds - self.simulation_seconds - self.optimizer_seconds


@dataclasses.dataclass(frozen=True)
class Same:
    """How far the two networks are apart with equal weights; of the largest value of each array."""

    output: float
    gradient: float


@dataclasses.dataclass(frozen=True)
class Report:
    """A whole run; without torch `theirs` and `same` are None."""

    setting: Setting
    device: str
    threads: int
    load: tuple[float, float, float]
    ours: Side
    theirs: Side | None
    same: Same | None
    real: RealStep | None

    @property
    def speed(self) -> Spread | None:
        """Torch's time over ours, turn by turn: above 1 ours is faster."""
        return self._ratio("seconds")

    @property
    def cpu_speed(self) -> Spread | None:
        """The same of processor times."""
        return self._ratio("cpu_seconds")

    def _ratio(self, name: str) -> Spread | None:
        if self.theirs is None:
            return None
        pairs = zip(self.theirs.turns, self.ours.turns, strict=True)
        return Spread.of([getattr(theirs, name) / getattr(ours, name) for theirs, ours in pairs])

    @property
    def holds(self) -> bool | None:
        """Whether the demand on the speed holds; None without torch."""
        return None if self.speed is None else self.speed.median >= LEAST_SPEED

    def share_of_rate(self, side: Side) -> float:
        """The step's rate over the best rate of matrix products that either side showed.

        Operations are the model's, counted once for both sides.
        """
        sides = [side for side in (self.ours, self.theirs) if side is not None]
        best = max(Spread.of(side.matrix_flops_per_s).median for side in sides)
        return self.ours.step_flops / side.seconds.median / best


def lines(report: Report) -> list[str]:
    """The report as text."""
    cores = f"{report.threads} threads, " if report.device.startswith("cpu") else ""
    load = ", ".join(f"{value:.1f}" for value in report.load)
    found = [
        f"network: {report.setting}",
        f"machine: {report.device}, {cores}load {load} (1, 5 and 15 minutes, in the end)",
    ]
    for side in (report.ours, report.theirs):
        if side is not None:
            found += _side_lines(report, side)
    if report.same is not None:
        found.append(
            f"same network: with equal weights outputs differ by {report.same.output:.1e}, "
            f"gradients by {report.same.gradient:.1e} of the largest value (small network, float32)"
        )
    if report.speed is not None and report.cpu_speed is not None:
        found += [
            f"speed: {report.speed.text()} times torch's, by processor time "
            f"{report.cpu_speed.text()}; median and range of {len(report.ours.turns)} turns",
            f"must: at least {LEAST_SPEED} times torch's speed: {report.speed.median:.2f}, "
            f"{'holds' if report.holds else 'missed'}",
        ]
    if report.real is not None:
        found += _real_lines(report.real)
    return found


def _side_lines(report: Report, side: Side) -> list[str]:
    rate = Spread.of([value / 1e9 for value in side.matrix_flops_per_s])
    return [
        f"{side.name}: step {side.seconds.text(1e3, 0)} ms, processor time "
        f"{side.cpu_seconds.text(1e3, 0)} ms, {100 * report.share_of_rate(side):.0f} % of the "
        "matrix rate",
        f"  {side.num_params:,} parameters, {side.step_flops / 1e9:.1f} GFLOP a step, matrix "
        f"products {rate.text(digits=0)} GFLOP/s",
    ]


def _real_lines(real: RealStep) -> list[str]:
    parts = {
        "network": real.network_seconds,
        "simulation and losses": real.simulation_seconds,
        "optimizer and average": real.optimizer_seconds,
    }
    text = ", ".join(
        f"{name} {1e3 * seconds:.0f} ms ({100 * seconds / real.step_seconds:.0f} %)"
        for name, seconds in parts.items()
    )
    step = f"{1e3 * real.step_seconds:.0f} ms"
    return [f"train step of {real.config}, {real.num_scenes} scenes: {step}; {text}"]


def as_json(report: Report) -> dict[str, Any]:
    """Every figure, and what follows from them."""
    found = dataclasses.asdict(report)
    for name in ("ours", "theirs"):
        side: Side | None = getattr(report, name)
        if side is not None:
            found[name]["seconds"] = dataclasses.asdict(side.seconds)
            found[name]["cpu_seconds"] = dataclasses.asdict(side.cpu_seconds)
            found[name]["share_of_matrix_rate"] = report.share_of_rate(side)
    for name in ("speed", "cpu_speed"):
        spread: Spread | None = getattr(report, name)
        found[name] = None if spread is None else dataclasses.asdict(spread)
    if report.real is not None:
        found["real"]["network_seconds"] = report.real.network_seconds
    found["must"] = {"least_speed": LEAST_SPEED, "holds": report.holds}
    return found
