"""A job that is killed and told to leave ends as one that never was: real processes and signals."""

import dataclasses
import os
import shutil
import signal

import numpy as np
import pytest
from real_jobs import assert_same_state, computed, load_state, start, write_config

from bokeh_jax.training import checkpoint
from bokeh_jax.training.preemption import EXIT_PREEMPTED
from bokeh_jax.training.train import train

RHYTHM = {"image_every_steps": 0, "checkpoint_every_steps": 7, "keep_checkpoints": 20}
# A save after every step: slow enough to be met at a given one.
EVERY_STEP = {"checkpoint_every_steps": 1}
LATE_SAVE = ("training.checkpoint_every_steps=10", "training.image_every_steps=11")


@dataclasses.dataclass(frozen=True)
class Whole:
    """A run of 12 steps that nothing disturbed, and its experiment."""

    file: object
    config: object
    workdir: object


@pytest.fixture(scope="module")
def alone(tiny, finished, tmp_path_factory):
    """The run that all tests share."""
    file = tmp_path_factory.mktemp("alone") / "experiment.py"
    config = write_config(file, tiny, training=RHYTHM)
    return Whole(file, config, finished.workdir)


@pytest.fixture(scope="module")
def of_two(alone, tiny, tmp_path_factory):
    """A run of two processes that has kept all of its checkpoints."""
    folder = tmp_path_factory.mktemp("of_two")
    config = write_config(folder / "experiment.py", tiny, training=RHYTHM | EVERY_STEP)
    job = start(folder / "experiment.py", folder / "whole", processes=2)
    assert job.end() == 0, job.said()[-3000:]
    assert checkpoint.steps(folder / "whole") == list(range(1, 13))
    return Whole(folder / "experiment.py", config, folder / "whole")


def assert_same_until(whole, workdir, step):
    """Parameters, both moments, their counts, EMA, step, data position; metrics, batches."""
    ours, theirs = (load_state(whole.config, path, step) for path in (workdir, whole.workdir))
    assert any("mu" in name for name in ours)
    assert ours["next_step"] == step
    assert_same_state(ours, theirs)
    assert [line["step"] for line in computed(workdir)] == list(range(1, step + 1))
    assert computed(workdir) == computed(whole.workdir)[:step]


def leaves_while_it_compiles(job, process_id):
    """Told to leave; nothing is compiled any more, and nobody hangs."""
    job.wait_for("state: resumed")
    os.kill(process_id(), signal.SIGTERM)
    assert job.end() == EXIT_PREEMPTED, job.said()[-3000:]
    assert "stopped by a signal before the first step" in job.said()
    assert "compiled in" not in job.said()


UNCACHED = {"JAX_ENABLE_COMPILATION_CACHE": "0"}


def test_one_process_killed_and_told_to_leave_ends_as_if_undisturbed(alone, tmp_path):
    workdir = tmp_path / "run"
    # Inside a save, without a warning.
    job = start(alone.file, workdir, "training.checkpoint_every_steps=1")
    job.wait_for_begun_save(3)
    job.process.kill()
    assert job.end() == -signal.SIGKILL
    reached = checkpoint.steps(workdir)[-1]
    assert 1 <= reached < 9

    job = start(alone.file, workdir, environment=UNCACHED)
    leaves_while_it_compiles(job, lambda: job.process.pid)
    assert f"resumed from {workdir} at step {reached}" in job.said()
    assert checkpoint.steps(workdir)[-1] == reached

    # While it draws. A panel that takes a while stands for an evaluation: it is what the loop does
    # when a signal comes. It was given to the device when the metrics before it were written.
    drawn = reached + 3
    job = start(alone.file, workdir, f"training.image_every_steps={drawn}", "sampler.num_steps=300")
    job.wait_for_step(drawn - 1)
    job.process.send_signal(signal.SIGTERM)
    assert job.end() == EXIT_PREEMPTED
    assert f"stopped by a signal at step {drawn}; the same command continues" in job.said()
    assert checkpoint.steps(workdir)[-1] == drawn

    train(alone.config, workdir, visible=False)
    assert_same_until(alone, workdir, 12)


def test_two_processes_killed_and_told_to_leave_go_on_as_if_undisturbed(of_two, tmp_path):
    workdir = tmp_path / "run"
    job = start(of_two.file, workdir, processes=2)
    job.wait_for_save(2)
    os.kill(job.child(1), signal.SIGKILL)
    assert job.end() not in (0, EXIT_PREEMPTED), "a job that lost a process is not preempted"
    reached = checkpoint.steps(workdir)[-1]
    assert 2 <= reached < 10
    assert job.said().count("step 1/12 ") == 1, "one process speaks"

    # To one of them, while a save is written: both leave after the same step.
    job = start(of_two.file, workdir, *LATE_SAVE, processes=2)
    job.wait_for_begun_save(10)
    os.kill(job.child(1), signal.SIGTERM)
    assert job.end() == EXIT_PREEMPTED, job.said()[-3000:]
    assert f"resumed from {workdir} at step {reached}" in job.said()
    # Before the next step, or after it where that was begun; a panel keeps it from the end.
    left = checkpoint.steps(workdir)[-1]
    assert left in (10, 11)
    assert f"stopped by a signal at step {left}; the same command" in job.said()
    assert_same_until(of_two, workdir, left)


@pytest.mark.long  # In `make test` one process does it above, and test_signals.py has three.
@pytest.mark.parametrize("told", [0, 1])
def test_two_processes_told_to_leave_while_they_compile(of_two, tmp_path, told):
    """The first is the one that the others meet at."""
    workdir = shutil.copytree(of_two.workdir, tmp_path / "run")
    shutil.rmtree(workdir / checkpoint.FOLDER / "12")
    job = start(of_two.file, workdir, processes=2, environment=UNCACHED)
    leaves_while_it_compiles(job, lambda: job.child(told))
    assert checkpoint.steps(workdir)[-1] == 11
    job = start(of_two.file, workdir, processes=2)
    assert job.end() == 0, job.said()[-3000:]
    assert_same_until(of_two, workdir, 12)


def test_two_one_and_four_processes_go_on_with_each_other_s_work(alone, of_two, tmp_path):
    """7 steps of two, 3 of one, 2 of four: the same batches, the same losses up to rounding."""
    workdir = shutil.copytree(of_two.workdir, tmp_path / "run")
    for step in range(8, 13):
        shutil.rmtree(workdir / checkpoint.FOLDER / str(step))
    settings = dataclasses.replace(of_two.config.training, checkpoint_every_steps=10)
    train(dataclasses.replace(of_two.config, training=settings), workdir, visible=False)
    shutil.rmtree(workdir / checkpoint.FOLDER / "12")
    job = start(of_two.file, workdir, processes=4)
    assert job.end() == 0, job.said()[-3000:]
    assert f"resumed from {workdir} at step 10" in job.said()
    one, two, mixed = (computed(path) for path in (alone.workdir, of_two.workdir, workdir))
    for name, tolerance in (("batch_checksum", 0.0), ("loss", 1e-5), ("gradient_norm", 1e-3)):
        expected = [line[name] for line in one]
        for other in (two, mixed):
            np.testing.assert_allclose([line[name] for line in other], expected, rtol=tolerance)
    ours, theirs = (load_state(of_two.config, path, 12) for path in (workdir, alone.workdir))
    assert ours["next_step"] == theirs["next_step"] == 12
