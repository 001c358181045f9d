"""launch/slurm.sbatch under a real Slurm: two tasks on this machine, preempted, queued, resumed.

Opt-in: needs munge and Slurm (Debian: apt-get install slurm-wlm munge), and some minutes:

    pytest -m long tests/launch/test_slurm_cluster.py
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bokeh_jax import config as config_lib
from bokeh_jax.training.writers import METRICS_FILE, read_metrics

ROOT = Path(__file__).parent.parent.parent
CLUSTER = Path(__file__).parent / "slurm" / "cluster.sh"
WAIT_SECONDS = 600

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin"),
        reason="slurmctld is not installed",
    ),
]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """Runs a command of Slurm and gives what it said; the cluster is this machine."""
    folder = tmp_path_factory.mktemp("slurm")
    environment = os.environ | {
        "SLURM_CONF": str(folder / "slurm.conf"),
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }

    def run(*command):
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout.strip()

    try:
        subprocess.run([CLUSTER, "start", folder], check=True, timeout=120)
        yield run
    finally:
        subprocess.run([CLUSTER, "stop", folder], check=True, timeout=120)


@pytest.fixture
def submit(slurm, tiny, tmp_path):
    """Submits launch/slurm.sbatch with two tasks; gives the job's number."""
    changes = json.loads(config_lib.to_json(tiny))
    changes["training"] |= {"image_every_steps": 100_000, "checkpoint_every_steps": 100_000}
    config = tmp_path / "job.py"
    config.write_text(
        "import json\n"
        "from bokeh_jax.config import experiment\n"
        f"def get_config():\n    return experiment(**json.loads({json.dumps(changes)!r}))\n"
    )

    def give(name, *arguments):
        return slurm(
            *("sbatch", "--parsable", "--nodes=1", "--ntasks-per-node=2", "--gpus-per-node=2"),
            *("--cpus-per-task=1", f"--output={tmp_path / name}.log", "launch/slurm.sbatch"),
            *(f"--config={config}", f"--workdir={tmp_path / name}", *arguments),
        )

    return give


def shown(slurm, job):
    """What `scontrol show job` says, by name."""
    text = slurm("scontrol", "show", "job", job)
    return dict(word.split("=", 1) for word in text.split() if "=" in word)


def start_soon(slurm, job):
    """Slurm waits two minutes before it starts a requeued job. At once would be too soon for it:
    "Killing non-startable batch job: Job credential revoked"."""
    slurm("scontrol", "update", f"JobId={job}", "StartTime=now+10seconds")


def wait_for(condition, log):
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        said = log.read_text()[-3000:] if log.exists() else "nothing yet"
        assert time.monotonic() < deadline, said
        time.sleep(0.5)


def test_a_job_that_fails_is_not_queued_again(slurm, submit, tmp_path):
    job = submit("wrong", "--config.training.num_steps=-1")
    log = tmp_path / "wrong.log"
    wait_for(lambda: shown(slurm, job)["JobState"] == "FAILED", log)
    now = shown(slurm, job)
    assert (now["ExitCode"], now["Restarts"]) == ("2:0", "0")
    assert "0: error: " in log.read_text()
    assert "1: error: " in log.read_text()


def test_a_job_that_is_preempted_goes_on_exactly_and_one_that_is_cancelled_does_not(
    slurm, submit, tmp_path
):
    log, metrics = tmp_path / "run.log", tmp_path / "run" / METRICS_FILE
    forever = "--config.training.num_steps=100000"
    job = submit("run", forever)

    def steps():
        return len(read_metrics(metrics)) if metrics.exists() else 0

    def queued_again(times):
        now = shown(slurm, job)
        return now["JobState"] == "PENDING" and now["Restarts"] == str(times)

    # SIGTERM to both processes, as `--signal` of launch/slurm.sbatch sends it.
    wait_for(lambda: steps() >= 3, log)
    slurm("scancel", "--signal=TERM", job)
    wait_for(lambda: queued_again(1), log)
    first = steps()
    assert log.read_text().count(f"stopped by a signal at step {first}") == 1
    start_soon(slurm, job)

    # A job of a higher partition takes the place.
    wait_for(lambda: steps() >= first + 3, log)
    assert f"0: state: resumed from {tmp_path / 'run'} at step {first}" in log.read_text()
    urgent = slurm(
        "sbatch",
        "--parsable",
        "--partition=high",
        "--ntasks=2",
        "--output=/dev/null",
        "--wrap=true",
    )
    wait_for(lambda: shown(slurm, urgent)["JobState"] == "COMPLETED", log)
    wait_for(lambda: queued_again(2), log)
    second = steps()
    assert log.read_text().count(f"stopped by a signal at step {second}") == 1
    start_soon(slurm, job)

    # The user's will is not a preemption: the state is saved, nothing starts again.
    wait_for(lambda: steps() >= second + 3, log)
    slurm("scancel", job)
    wait_for(lambda: shown(slurm, job)["JobState"] == "CANCELLED", log)
    last = steps()
    assert log.read_text().count(f"stopped by a signal at step {last}") == 1
    assert shown(slurm, job)["Restarts"] == "2"

    # Both processes said who they are, one speaks of the job.
    said = log.read_text()
    assert said.count("0: process 0: one of 2, on ") == 3
    assert said.count("1: process 1: one of 2, on ") == 3
    assert "\n1: step " not in said

    # The same without a break: the same batches, the same losses, bit for bit.
    whole = submit("whole", forever)
    unbroken = tmp_path / "whole" / METRICS_FILE
    wait_for(
        lambda: unbroken.exists() and len(read_metrics(unbroken)) >= last, tmp_path / "whole.log"
    )
    slurm("scancel", whole)
    assert [line["step"] for line in read_metrics(metrics)] == list(range(1, last + 1))
    for mine, theirs in zip(read_metrics(metrics), read_metrics(unbroken)[:last], strict=True):
        for name in ("step", "batch_checksum", "loss", "gradient_norm", "learning_rate"):
            assert mine[name] == theirs[name], (mine["step"], name)
