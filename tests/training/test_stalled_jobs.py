"""Jobs that would hang: they end, and say where. Real processes, stopped with real signals."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from real_jobs import ENVIRONMENT, ROOT, free_port, run_ready, start, write_config

from bokeh_jax.errors import InvalidInput
from bokeh_jax.training import checkpoint, watchdog
from bokeh_jax.training.hosts import Hosts

LIMIT_SECONDS = 15.0


def test_a_job_with_a_frozen_process_ends_and_says_who_waited(tiny, tmp_path):
    file = tmp_path / "experiment.py"
    rhythm = {"num_steps": 100_000, "image_every_steps": 0, "checkpoint_every_steps": 100_000}
    write_config(file, tiny, training=rhythm | {"stall_timeout_seconds": LIMIT_SECONDS})
    watched = start(file, tmp_path / "watched", processes=2)
    watched.wait_for_step(5)
    os.kill(watched.child(1), signal.SIGSTOP)
    assert watched.end() == watchdog.EXIT_STALLED, watched.said()[-3000:]
    said = watched.said()
    assert re.search(
        r"^process 0: stalled: nothing has come to an end for \d+ s "
        r"\(training.stall_timeout_seconds\); it was reading the metrics of step \d+ "
        r"\(last step finished: \d+, step \d+ is on the devices\)$",
        said,
        re.MULTILINE,
    ), said[-3000:]
    assert "run_steps" in said, "the stack of the main thread"
    assert checkpoint.steps(tmp_path / "watched") == []


OF_A_PAIR = """
import sys, time
from bokeh_jax.training.hosts import Hosts, join
join(Hosts(sys.argv[1], 2, int(sys.argv[2]), 60, heartbeat_timeout_seconds=int(sys.argv[3])))
print("ready", flush=True)
time.sleep(600)
"""


def test_a_process_that_is_not_heard_of_ends_its_partner():
    """Either of two is frozen: the one that the other meets at, or the other."""
    pairs = [
        run_ready(OF_A_PAIR, *([f"localhost:{port}", index, "10"] for index in ("0", "1")))
        for port in (free_port(), free_port())
    ]
    for frozen, pair in enumerate(pairs):
        pair[frozen].send_signal(signal.SIGSTOP)
    for frozen, pair in enumerate(pairs):
        assert pair[1 - frozen].wait(timeout=100) == -signal.SIGABRT
        pair[frozen].kill()
        for process in pair:
            process.communicate()


def test_a_process_whose_partner_never_comes_ends(tiny, tmp_path):
    write_config(tmp_path / "experiment.py", tiny)
    process = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "bokeh_jax.training.train",
                f"--config={tmp_path / 'experiment.py'}",
            ),
            *(f"--workdir={tmp_path / 'run'}", "--coordinator=localhost:1", "--num-processes=2"),
            *("--process-index=1", "--join-timeout-seconds=2"),
        ],
        cwd=ROOT,
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode not in (0, 2, 75)
    assert "process 1 of 2: waiting for the others at localhost:1, up to 2 s" in process.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["timeout_seconds", "heartbeat_timeout_seconds"])
def test_times_to_wait_are_positive(name):
    with pytest.raises(InvalidInput, match=f"{name} is 0; allowed: 1 or more"):
        Hosts(**{name: 0})


class Value:
    """A device value that becomes ready when it is told to."""

    ready = False

    def is_ready(self):
        return self.ready


def test_progress_is_what_the_device_has_finished():
    first, second = Value(), Value()
    progress = watchdog.Progress(enabled=True)
    progress.begin()
    progress.queue(1, first)
    progress.queue(2, second)
    started = progress.since
    progress.doing = "starting step 3"
    progress.look()
    assert progress.since == started, "what the host does is no progress"
    assert progress.waits_for().endswith("(last step finished: none, step 1 is on the devices)")
    first.ready = True
    progress.look()
    assert progress.since is not None
    assert progress.since > started
    assert progress.waits_for().endswith("(last step finished: 1, step 2 is on the devices)")
    second.ready = True
    progress.look()
    assert progress.waits_for() == "starting step 3 (last step finished: 2)"


def test_the_end_of_a_save_is_progress():
    progress = watchdog.Progress(enabled=True)
    with progress.phase("saving step 3"):
        inside = progress.since
        assert progress.doing == "saving step 3"
    assert inside is not None
    assert progress.since > inside
    assert progress.doing == "starting"


def test_nothing_is_kept_where_nobody_looks():
    with watchdog.watched(0.0) as progress:
        progress.queue(1, Value())
        assert not progress.queued


def test_start_up_has_no_limit_and_the_loop_has(capfd):
    """In a process of its own, as it does not survive."""
    program = (
        "import sys, time\n"
        "from bokeh_jax.training.watchdog import watched\n"
        "with watched(0.5) as progress:\n"
        "    time.sleep(1.5)\n"
        "    print('still there', flush=True)\n"
        "    progress.doing = 'waiting for the batch of step 1'\n"
        "    progress.begin()\n"
        "    time.sleep(300)\n"
    )
    started = time.monotonic()
    process = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == watchdog.EXIT_STALLED
    assert "still there" in process.stdout
    assert "it was waiting for the batch of step 1 (last step finished: none)" in process.stderr
    assert 'File "<string>", line 8' in process.stderr
    assert time.monotonic() - started < 200
