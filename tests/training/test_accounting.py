import dataclasses
import mmap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bokeh_jax.chips import CHIPS
from bokeh_jax.models.flops import refocus_forward_flops
from bokeh_jax.training.accounting import (
    Interval,
    Machine,
    Meter,
    Spent,
    batch_flops,
    step_rates,
)
from bokeh_jax.training.loop import Hooks, run_steps
from bokeh_jax.training.memory_use import device_memory_gib, host_memory_gib
from bokeh_jax.training.nonfinite import Judge, LostSteps
from bokeh_jax.training.reporting import Reporter
from bokeh_jax.training.step_metrics import step_metrics
from bokeh_jax.training.writers import METRICS_FILE, open_writer, read_metrics


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def taking(self, seconds, value=None):
        self.now += seconds
        return value


def metrics_of(**values):
    parts = ("loss", "flow_loss", "stacking_loss", "sample_psnr_db", "guess_psnr_db")
    names = (*parts, "gradient_norm", "parameter_norm", "learning_rate", "batch_checksum")
    values = dict.fromkeys(names, jnp.float32(1)) | values
    lost = LostSteps.of_step(jnp.bool(True), jnp.int32(1), values, jnp.arange(4))
    return step_metrics(parts).single_from_model_output(**values, lost_steps=lost)


def test_rates_are_the_equations():
    # 10 s, of which 2 for a save and 1 for pictures: 7 steps of 1 s each.
    interval = Interval(10.0, Spent(3.0, 1.5, checkpoint_seconds=2.0, panel_seconds=1.0))
    peak = CHIPS["v5p"].flops_per_s
    rates = step_rates(
        interval,
        steps=7,
        images_per_step=12,
        flops=0.45 * peak * 8 * 7.0,
        machine=Machine(8, CHIPS["v5p"]),
    )
    assert rates["step_seconds"] == pytest.approx(1.0)
    assert rates["mfu_percent"] == pytest.approx(45.0)
    assert rates["device_tflops_per_second"] == pytest.approx(0.45 * peak / 1e12)
    # Speeds as a person counts them: over all of the time.
    assert rates["steps_per_second"] == pytest.approx(0.7)
    assert rates["images_per_second"] == pytest.approx(8.4)
    assert rates["data_wait_percent"] == pytest.approx(30.0)
    assert rates["starved_percent"] == pytest.approx(15.0)
    assert rates["checkpoint_seconds"] == 2.0
    assert rates["panel_seconds"] == 1.0


def test_what_is_not_known_is_absent():
    interval = Interval(1.0, Spent())
    without_peak = step_rates(
        interval, steps=1, images_per_step=1, flops=5e11, machine=Machine(1, None)
    )
    assert "mfu_percent" not in without_peak
    assert without_peak["device_tflops_per_second"] == pytest.approx(0.5)
    without_flops = step_rates(
        interval, steps=1, images_per_step=1, flops=0.0, machine=Machine(1, CHIPS["v4"])
    )
    assert not {"mfu_percent", "device_tflops_per_second"} & without_flops.keys()


def test_operations_are_those_of_the_batch_at_hand(tiny):
    flops = batch_flops(tiny)
    images = tiny.training.global_batch_size * tiny.simulation.cameras.num_targets
    layered = {"layers": np.zeros((4, 3, 26, 26, 4)), "layer_gain": np.zeros((4, 3))}
    assert flops(layered) == 3 * images * refocus_forward_flops(tiny.model, 16, 16)
    multiple = dataclasses.replace(tiny.simulation, frame_multiple_px=4)
    wide = batch_flops(dataclasses.replace(tiny, simulation=multiple))
    photographs = {"image": np.zeros((4, 20, 32, 3)), "disparity": np.zeros((4, 20, 32))}
    assert wide(photographs) == 3 * images * refocus_forward_flops(tiny.model, 12, 20)


class Value:
    """A device value that is ready when a test says so."""

    def __init__(self):
        self.ready = False

    def is_ready(self):
        return self.ready


def test_waiting_for_data_counts_as_starving_only_when_the_device_ran_dry():
    clock, newest = Clock(), Value()
    meter = Meter(clock=clock)
    seconds = iter([5.0, 2.0, 3.0])
    batches = (clock.taking(next(seconds), batch) for batch in "abc")
    assert meter.next_batch(batches) == "a"  # nothing runs before the first step
    meter.dispatched([newest])
    assert meter.next_batch(batches) == "b"
    newest.ready = True
    assert meter.next_batch(batches) == "c"
    clock.taking(1.0)
    interval = meter.close_interval()
    assert interval.seconds == 11.0
    assert interval.spent == Spent(data_wait_seconds=10.0, starved_seconds=8.0)
    # The next interval begins with nothing spent.
    clock.taking(4.0)
    assert meter.close_interval() == Interval(4.0, Spent())


def test_work_that_stops_the_loop_is_counted_by_its_kind_even_when_it_fails():
    clock = Clock()
    meter = Meter(clock=clock)
    with meter.blocked("checkpoint", jnp.zeros(3)):
        clock.taking(2.0)

    @meter.blocked("panel", ())
    def fail():
        clock.taking(0.5)
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        fail()
    clock.taking(7.0)
    interval = meter.close_interval()
    assert interval.spent == Spent(checkpoint_seconds=2.0, panel_seconds=0.5)
    assert interval.stepping_seconds == 7.0


@jax.jit
def work(num_products, x):
    """Real work of the device, a millisecond or so a product; asynchronous, as a step is."""

    def product(carry):
        done, x = carry
        return done + 1, jnp.sin(x @ x)

    return jax.lax.while_loop(lambda carry: carry[0] < num_products, product, (jnp.int32(0), x))[1]


@pytest.fixture(scope="module")
def matrix():
    x = jnp.full((256, 256), 0.01)
    return work(jnp.int32(1), x)


def test_steps_that_run_are_not_counted_as_the_save_that_waits_for_them(matrix):
    clock = Clock()
    meter = Meter(clock=clock)
    value = work(jnp.int32(300), matrix)
    meter.dispatched(value)
    assert meter.next_batch(iter("a")) == "a"
    assert not value.is_ready(), "it was asked and not waited for"
    with meter.blocked("checkpoint", value):
        assert value.is_ready()
        clock.taking(2.0)
    assert meter.close_interval() == Interval(2.0, Spent(checkpoint_seconds=2.0))


def test_no_step_is_waited_for_before_the_next_is_queued(tiny, tmp_path, matrix):
    steps, running, queued, clock = 5, [], [], Clock()
    count = jnp.int32(300)

    @jax.jit
    def compiled(count, state):
        state = work(count, state)
        return state, metrics_of(loss=state[0, 0])

    def train_step(state, batch):
        running.append(bool(queued) and not queued[-1].is_ready())
        state, metrics = compiled(count, state)
        queued.append(state)
        return state, metrics

    compiled(count, matrix)
    training = dataclasses.replace(tiny.training, num_steps=steps, log_every_steps=1)
    config = dataclasses.replace(tiny, training=training)
    meter = Meter(lambda batch: 1e9, clock)
    writer = open_writer(tmp_path, 0)
    reporter = Reporter(writer, None, meter, 4, 8, Machine(1))
    hooks = Hooks(
        save=lambda state, step: None,
        panel=lambda state, step: None,
        report=lambda step, window: reporter.report(step, clock.taking(2.0, window)),
        stop_requested=lambda step: False,
        judge=Judge("stop", None),
        meter=meter,
    )
    batches = (clock.taking(0.5, {}) for _ in range(steps))
    run_steps.__wrapped__(config, train_step, matrix, 0, batches, hooks)
    writer.close()
    # A loop that waited for a step's values would find none of them still running.
    assert sum(running[1:]) >= 2, running
    lines = read_metrics(tmp_path / METRICS_FILE)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert [line["examples"] for line in lines] == [4, 8, 12, 16, 20]
    # The first interval holds two waits for data, the last none.
    assert [line["step_seconds"] for line in lines] == [3.0, 2.5, 2.5, 2.5, 2.0]
    assert lines[1]["device_tflops_per_second"] == pytest.approx(1e-3 / 2.5)
    # Data that comes while the device is busy costs nothing.
    assert lines[0]["starved_percent"] > 0
    assert any(line["starved_percent"] < line["data_wait_percent"] for line in lines)
    assert all(line["host_memory_gib"] > 0.1 for line in lines)


def test_memory_of_a_process_on_cpus_is_its_own():
    found = host_memory_gib()
    assert 0.05 < found["host_memory_gib"] <= 1.01 * found["host_memory_peak_gib"]
    # Pages from the system: malloc might give what an earlier test has freed.
    block = np.frombuffer(mmap.mmap(-1, 1 << 26), np.uint8)
    block[:] = 1
    grown = host_memory_gib()["host_memory_gib"] - found["host_memory_gib"]
    assert grown == pytest.approx(block.nbytes / (1 << 30), abs=0.02)
    assert device_memory_gib([device.memory_stats() for device in jax.local_devices()]) == {}


def test_memory_of_devices_is_that_of_the_fullest():
    gib = 1 << 30
    stats = [{"bytes_in_use": n * gib, "peak_bytes_in_use": (n + 1) * gib} for n in (3, 5, 4)]
    expected = {"device_memory_gib": 5.0, "device_memory_peak_gib": 6.0}
    assert device_memory_gib(stats) == expected
    stats[0]["bytes_limit"] = 16 * gib
    assert device_memory_gib(stats) == expected, "only what all of them count"
