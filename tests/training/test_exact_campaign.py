"""Kills at random moments, inside saves too: the run always goes on, and ends bitwise the same.

pytest -m long tests/training/test_exact_campaign.py
EXACT_SEED=3 EXACT_KILLS=40 EXACT_PROCESSES=2 pytest -m long tests/training/test_exact_campaign.py
"""

import os
import random
import signal
import time

import pytest
from real_jobs import assert_same_state, computed, load_state, start, write_config

from bokeh_jax.training import checkpoint
from bokeh_jax.training.preemption import EXIT_PREEMPTED

SEED = int(os.environ.get("EXACT_SEED", "1"))
KILLS = int(os.environ.get("EXACT_KILLS", "20"))
PROCESSES = int(os.environ.get("EXACT_PROCESSES", "1"))
NUM_STEPS = 80
RHYTHM = {
    "num_steps": NUM_STEPS,
    "image_every_steps": 0,
    "checkpoint_every_steps": 1,
    "keep_checkpoints": 3,
}


def kill_somewhere(job, draw, reached):
    """One kill, at a drawn moment; what it was, in words."""
    kind = draw.choice(["start-up", "loop", "save", "save", "SIGTERM"])
    delay_seconds = draw.random()
    if kind == "start-up":
        delay_seconds *= 8
    elif kind == "save":
        job.wait_for_begun_save(reached + 1)
        delay_seconds *= 0.2
    else:
        job.wait_until(lambda: any(s > reached for s in checkpoint.steps(job.workdir)))
    time.sleep(delay_seconds)
    number = signal.SIGTERM if kind == "SIGTERM" else signal.SIGKILL
    victim = job.process.pid if PROCESSES == 1 else job.child(draw.randrange(PROCESSES))
    os.kill(victim, number)
    return f"{kind} + {delay_seconds:.3f} s"


@pytest.mark.long
def test_kills_at_random_moments_change_nothing(tiny, tmp_path):
    file, whole, workdir = (tmp_path / name for name in ("experiment.py", "whole", "run"))
    config = write_config(file, tiny, training=RHYTHM)
    job = start(file, whole, processes=PROCESSES)
    assert job.end() == 0, job.said()[-3000:]

    draw, killed = random.Random(SEED), 0
    for attempt in range(KILLS):
        reached = max(checkpoint.steps(workdir), default=0)
        if reached == NUM_STEPS:
            break
        job = start(file, workdir, processes=PROCESSES)
        try:
            moment = kill_somewhere(job, draw, reached)
        except (AssertionError, ProcessLookupError):
            # It was done before the drawn moment came.
            assert job.end() == 0, job.said()[-3000:]
            break
        code = job.end()
        killed += code != 0
        now = max(checkpoint.steps(workdir), default=0)
        unfinished = [p.name for p in (workdir / checkpoint.FOLDER).glob("*tmp*")]
        print(
            f"kill {attempt + 1}: {moment}; code {code}, step {reached} -> {now}, "
            f"left behind {unfinished}",
            flush=True,
        )
        assert now >= reached
        assert code in (0, EXIT_PREEMPTED, -signal.SIGKILL) or PROCESSES > 1, job.said()[-3000:]
    job = start(file, workdir, processes=PROCESSES)
    assert job.end() == 0, job.said()[-3000:]
    print(f"{killed} kills with seed {SEED}")
    ours, theirs = (load_state(config, path, NUM_STEPS) for path in (workdir, whole))
    assert_same_state(ours, theirs)
    assert [line["step"] for line in computed(workdir)] == list(range(1, NUM_STEPS + 1))
    assert computed(workdir) == computed(whole)
