"""Where a process's time goes while it steps, and what the steps are worth: rates, TFLOP/s, MFU.

All of it is host arithmetic on clock readings and shapes; nothing here waits for the device, except
`Meter.blocked`, around work that waits for it anyway.

Between two reports lies an interval of T seconds, of which C went to saving and P to pictures. With
n steps that ended in it, F the operations of the network's products in them, D devices of peak p:

    (1) step time       τ   = (T − C − P) / n
    (2) TFLOP/s         r   = F / (n τ D) / 10¹²                of one device
    (3) MFU             u   = F / (n τ D p)
    (4) F               Σ over steps: 3 · forward operations of one image · images

F is what the model needs (models/flops.py): the backward pass counts twice the forward one (less
where adapters are all that is trained: no gradient of a frozen matrix is needed), what
rematerialisation repeats counts nothing, nor does the simulation, nor the autoencoder of latents
(a run that trains one, or a network of depth or focus, reports no MFU). p is the dense bfloat16
peak (chips.py), whatever type the config computes in.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from bokeh_jax.chips import Chip
from bokeh_jax.config import ExperimentConfig
from bokeh_jax.models.exif_tokens import NUM_EXIF_TOKENS
from bokeh_jax.models.flops import generate_training_flops, refocus_training_flops

Clock = Callable[[], float]


@dataclasses.dataclass(frozen=True)
class Spent:
    """Seconds of the loop in which no step was made or the host waited.

    Attributes:
        data_wait_seconds: the host waited for a batch, whether or not the device was busy.
        starved_seconds: the part of it after which the device was found with nothing to do. At most
            this long it waited too.
        checkpoint_seconds: the loop stood still for a save, after the device was done.
        panel_seconds: the loop stood still for pictures, likewise.
    """

    data_wait_seconds: float = 0.0
    starved_seconds: float = 0.0
    checkpoint_seconds: float = 0.0
    panel_seconds: float = 0.0

    def plus(self, **seconds: float) -> "Spent":
        """With more seconds of the named kinds."""
        return dataclasses.replace(
            self, **{name: getattr(self, name) + more for name, more in seconds.items()}
        )


@dataclasses.dataclass(frozen=True)
class Interval:
    """Time between two reports, and what of it was spent on other things than steps."""

    seconds: float
    spent: Spent

    @property
    def stepping_seconds(self) -> float:
        """T − C − P of equation (1); waiting for data is part of it."""
        return self.seconds - self.spent.checkpoint_seconds - self.spent.panel_seconds


def images_per_step(config: ExperimentConfig) -> int:
    """Evaluations of the network in a step."""
    scenes = config.training.global_batch_size
    if config.task in ("generate", "depth", "focus", "defocus"):
        return scenes
    return scenes * config.simulation.cameras.num_targets


def batch_flops(config: ExperimentConfig) -> Callable[[Mapping[str, Any]], float]:
    """Gives equation (4) of one batch, read off its shapes."""
    images = images_per_step(config)

    # A run has few shapes; the arithmetic of one would take the host 0.1 ms at every step.
    @functools.cache
    def flops_of(grid: tuple[int, int]) -> float:
        if config.task not in ("refocus", "generate"):
            return 0.0
        if config.task == "generate":
            told = config.text.num_tokens + NUM_EXIF_TOKENS * config.generation.exif_tokens
            return generate_training_flops(config.model, *grid, told) * images
        return refocus_training_flops(config.model, *grid) * images

    def flops(batch: Mapping[str, Any]) -> float:
        if "multi" in batch:
            return flops_of(batch["multi"].shape[1:3])
        stored = batch["layers"].shape[2:4] if "layers" in batch else batch["image"].shape[1:3]
        return flops_of(config.grid_of((stored[0], stored[1])))

    return flops


class Meter:
    """Measures the loop of one process; one interval is open at any time."""

    def __init__(
        self,
        flops: Callable[[Mapping[str, Any]], float] = lambda batch: 0.0,
        clock: Clock = time.monotonic,
    ):
        """Start the first interval.

        Args:
            flops: operations of the network's products in a step with that batch.
            clock: seconds that never run backwards.
        """
        self.flops = flops
        self._clock = clock
        self._newest: Any = None
        self._since = clock()
        self._spent = Spent()

    def next_batch(self, batches: Iterator[Any]) -> Any:
        """Draws a batch and takes the time. Asks, without waiting, whether the device ran dry."""
        started = self._clock()
        batch = next(batches)
        waited = self._clock() - started
        idle = self._newest is None or self._newest.is_ready()
        self._spent = self._spent.plus(
            data_wait_seconds=waited, starved_seconds=waited if idle else 0.0
        )
        return batch

    def dispatched(self, metrics: Any) -> None:
        """Remembers the newest step by one of its outputs, which is ready when the step is done."""
        self._newest = jax.tree.leaves(metrics)[0]

    @contextlib.contextmanager
    def blocked(self, kind: str, needed: Any) -> Iterator[None]:
        """Counts the time inside as `kind`: "checkpoint" or "panel".

        Args:
            kind: what it is for.
            needed: device values that the work inside reads. They are waited for first, so that
                steps which are still running are not counted as that work.
        """
        jax.block_until_ready(needed)
        started = self._clock()
        try:
            yield
        finally:
            self._spent = self._spent.plus(**{f"{kind}_seconds": self._clock() - started})

    def close_interval(self) -> Interval:
        """Ends the open interval and begins the next."""
        now = self._clock()
        interval = Interval(now - self._since, self._spent)
        self._since, self._spent = now, Spent()
        return interval


@dataclasses.dataclass(frozen=True)
class Machine:
    """The devices of the job.

    Attributes:
        num_devices: of all processes.
        chip: their published peaks; None where they are not known, as of CPUs.
    """

    num_devices: int
    chip: Chip | None = None


def step_rates(
    interval: Interval, *, steps: int, images_per_step: int, flops: float, machine: Machine
) -> dict[str, float]:
    """The numbers of a report that come from clocks and shapes; MFU only where a peak is known.

    Args:
        interval: between this report and the one before.
        steps: that ended in it.
        images_per_step: network evaluations of a step.
        flops: of these steps, all devices together; 0 where not known.
        machine: the devices that shared them.
    """
    seconds = max(interval.seconds, 1e-9)
    stepping = max(interval.stepping_seconds, 1e-9)
    rates = {
        "step_seconds": stepping / steps,
        "steps_per_second": steps / seconds,
        "images_per_second": steps * images_per_step / seconds,
        "data_wait_percent": 100.0 * interval.spent.data_wait_seconds / seconds,
        "starved_percent": 100.0 * interval.spent.starved_seconds / seconds,
        "checkpoint_seconds": interval.spent.checkpoint_seconds,
        "panel_seconds": interval.spent.panel_seconds,
    }
    if flops:
        flops_per_s = flops / stepping / machine.num_devices
        rates["device_tflops_per_second"] = flops_per_s / 1e12
        if machine.chip is not None:
            rates["mfu_percent"] = 100.0 * flops_per_s / machine.chip.flops_per_s
    return rates
