"""The measurements of `bokeh-jax bench data`: a scene's stages, and the rate of the whole."""

import dataclasses
import time

import jax
import numpy as np

from bokeh_jax.config import MeshConfig
from bokeh_jax.errors import InvalidInput
from bokeh_jax.training import sharding
from bokeh_jax.training.prefetch import DevicePrefetch
from data_pipeline.loader import LoaderConfig, make_loader, open_rows
from data_pipeline.records import decode_scene, parse_record

STAGES = ("read", "parse", "decode", "stack", "copy")


@dataclasses.dataclass(frozen=True)
class Stages:
    """How long a scene takes in one thread.

    Attributes:
        ms: by stage, as the clock says.
        cpu_ms: processor time of all stages: what other programs on the machine do not change.
        num_scenes: that were timed.
    """

    ms: dict[str, float]
    cpu_ms: float
    num_scenes: int

    @property
    def total_ms(self) -> float:
        """All stages together."""
        return sum(self.ms.values())

    @property
    def longest(self) -> str:
        """The stage that takes the most time."""
        return max(self.ms, key=lambda stage: self.ms[stage])


@dataclasses.dataclass(frozen=True)
class Rate:
    """The whole, with one number of workers.

    Attributes:
        workers: processes; 0 decodes in threads of this one.
        first_batch_s: from the start to the first batch on the devices.
        scenes_per_s: from then on, nothing else to do.
        wait_percent: of the time with a step; None without a step time.
    """

    workers: int
    first_batch_s: float
    scenes_per_s: float
    wait_percent: float | None


def measure_stages(config: LoaderConfig, seconds: float) -> Stages:
    """Times scenes' way in this thread, over whole batches from the first on.

    The first batch of each shape opens files and fills caches: it is not counted.
    """
    scenes, order = open_rows(config)
    positions = [scenes.positions(group) for group in range(len(scenes.groups))]
    placement = _placement(config)
    clocks = np.zeros((2, len(STAGES)))
    num_batches, step, started = 0, 0, time.perf_counter()
    seen: set[int] = set()
    while num_batches == 0 or time.perf_counter() - started < seconds:
        rows = order.rows(step, range(config.global_batch_size))
        places = [int(positions[group][index]) for group, index in rows]
        groups = [scenes.groups[group] for group, _ in rows]
        times = [_clocks()]
        records = [scenes.records[place] for place in places]
        times.append(_clocks())
        values = [parse_record(record) for record in records]
        times.append(_clocks())
        decoded = [
            decode_scene(value, group.kind, (group.height_px, group.width_px), group.max_layers)
            for value, group in zip(values, groups, strict=True)
        ]
        times.append(_clocks())
        batch = {name: np.stack([scene[name] for scene in decoded]) for name in decoded[0]}
        times.append(_clocks())
        jax.block_until_ready(sharding.put_batch(batch, placement))
        times.append(_clocks())
        if order.shape_at(step) in seen:
            num_batches += 1
            clocks += np.diff(np.array(times), axis=0).T
        seen.add(order.shape_at(step))
        step += 1
    count = num_batches * config.global_batch_size
    wall_ms, cpu_ms = 1e3 * clocks / count
    return Stages(dict(zip(STAGES, wall_ms.tolist(), strict=True)), float(cpu_ms.sum()), count)


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _placement(config: LoaderConfig) -> jax.sharding.NamedSharding:
    mesh = sharding.make_mesh(MeshConfig())
    if config.global_batch_size % sharding.num_batch_shards(mesh):
        raise InvalidInput(
            f"global_batch_size is {config.global_batch_size}; allowed: a multiple of the "
            f"{sharding.num_batch_shards(mesh)} devices"
        )
    return sharding.batch_sharding(mesh)


def measure_rate(config: LoaderConfig, seconds: float, step_ms: float | None) -> Rate:
    """Runs the loader as training does: with nothing to do, then with a step that sleeps."""
    placement = _placement(config)
    started = time.perf_counter()
    loader = make_loader(config)
    try:
        with DevicePrefetch(loader, placement) as batches:
            jax.block_until_ready(next(batches))
            first_batch_s = time.perf_counter() - started
            count, started = 0, time.perf_counter()
            while count == 0 or time.perf_counter() - started < seconds:
                jax.block_until_ready(next(batches))
                count += 1
            scenes_per_s = count * config.global_batch_size / (time.perf_counter() - started)
            waited = None if step_ms is None else _wait_percent(batches, seconds, step_ms)
    finally:
        loader.close()
    return Rate(config.num_workers, first_batch_s, scenes_per_s, waited)


def _wait_percent(batches: DevicePrefetch, seconds: float, step_ms: float) -> float:
    """Share of the time that a loop of steps waits for batches."""
    # The queues fill during a step or two, as they do in training.
    for _ in range(2):
        next(batches)
        time.sleep(step_ms / 1e3)
    waited_s, started = 0.0, time.perf_counter()
    while waited_s == 0 or time.perf_counter() - started < seconds:
        asked = time.perf_counter()
        jax.block_until_ready(next(batches))
        waited_s += time.perf_counter() - asked
        time.sleep(step_ms / 1e3)
    return 100 * waited_s / (time.perf_counter() - started)
