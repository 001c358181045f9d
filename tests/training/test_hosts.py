"""Several processes as one job: real processes on this machine, gloo between them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bokeh_jax import config as config_lib
from bokeh_jax.config import resolve
from bokeh_jax.errors import InvalidInput
from bokeh_jax.training import checkpoint
from bokeh_jax.training.hosts import Hosts, _is_started_by_scheduler, code_version
from bokeh_jax.training.preemption import EXIT_PREEMPTED
from bokeh_jax.training.train import train
from bokeh_jax.training.writers import METRICS_FILE, read_metrics

ROOT = Path(__file__).parent.parent.parent


def write_config(path, tiny, **training):
    changes = json.loads(config_lib.to_json(tiny))
    changes["training"] |= {"image_every_steps": 100_000, "checkpoint_every_steps": 100_000}
    changes["training"] |= training
    path.write_text(
        "import json\n"
        "from bokeh_jax.config import experiment\n"
        f"def get_config():\n    return experiment(**json.loads({json.dumps(changes)!r}))\n"
    )
    return resolve(changes)


def start_job(*arguments):
    """`launch/local.py` with two processes, one CPU device each."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "launch" / "local.py"), "--processes=2", "--", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def child_with_number(parent: int, number: int) -> int:
    """The process that has `--process-index=number`, among the children of a process."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().decode().split("\0")
            its_parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        if its_parent == parent and f"--process-index={number}" in command:
            return int(entry.name)
    raise AssertionError(f"no process {number} under {parent}")


def test_two_processes_train_as_one_and_leave_together_when_one_is_told_to(tiny, tmp_path):
    config, workdir = tmp_path / "job.py", tmp_path / "run"
    resolved = write_config(config, tiny, num_steps=100_000)
    job = start_job(f"--config={config}", f"--workdir={workdir}")
    metrics, deadline = workdir / METRICS_FILE, time.monotonic() + 400
    while not (metrics.exists() and len(read_metrics(metrics)) >= 4):
        assert job.poll() is None, job.communicate()[0][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(child_with_number(job.pid, 1), signal.SIGTERM)
    said, _ = job.communicate(timeout=200)
    assert job.returncode == EXIT_PREEMPTED, said[-3000:]
    saved = checkpoint.existing_step(workdir)
    assert checkpoint.steps(workdir) == [saved]
    assert f"stopped by a signal at step {saved}; the same command continues" in said
    assert read_metrics(metrics)[-1]["step"] == saved
    # One process writes and speaks.
    assert [line["step"] for line in read_metrics(metrics)] == list(range(1, saved + 1))
    assert len(re.findall(r"^step 1/", said, re.MULTILINE)) == 1

    # One process sees the same batches, and the same losses up to the order of sums.
    few = resolve(json.loads(config_lib.to_json(resolved)), ["training.num_steps=4"])
    few = resolve(json.loads(config_lib.to_json(few)), ["optimizer.warmup_steps=2"])
    train(few, tmp_path / "alone", visible=False)
    alone, both = (read_metrics(path / METRICS_FILE) for path in (tmp_path / "alone", workdir))
    for mine, theirs in zip(alone, both[:4], strict=True):
        assert mine["batch_checksum"] == theirs["batch_checksum"]
    np.testing.assert_allclose(
        [line["loss"] for line in alone[:2]], [line["loss"] for line in both[:2]], rtol=1e-4
    )

    # What two processes saved, one continues.
    more = resolve(json.loads(config_lib.to_json(resolved)), [f"training.num_steps={saved + 1}"])
    assert int(train(more, workdir, visible=False).state.step) == saved + 1


def test_processes_with_different_configs_stop_and_say_so(tiny, tmp_path):
    config = tmp_path / "job.py"
    write_config(config, tiny)
    sys.path.insert(0, str(ROOT / "launch"))
    try:
        from local import free_port
    finally:
        sys.path.remove(str(ROOT / "launch"))
    port = free_port()
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "bokeh_jax.training.train", f"--config={config}"),
                *(f"--workdir={tmp_path / 'run'}", f"--coordinator=localhost:{port}"),
                *("--num-processes=2", f"--process-index={index}", f"--config.seed={index}"),
            ],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    for process in processes:
        _, said = process.communicate(timeout=200)
        assert process.returncode == 2, said[-3000:]
        assert "error: processes of the job differ from process 0 in config (process 1);" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"coordinator": "a:1"}, "num_processes and process_index not given; allowed: all of"),
        (
            {"coordinator": "a:1", "num_processes": 2, "process_index": 2},
            "process_index is 2; allowed: 0 to 1",
        ),
        (
            {"coordinator": "a:1", "num_processes": 0, "process_index": 0},
            "num_processes is 0; allowed: 1 or more",
        ),
    ],
)
def test_a_job_is_described_whole_or_not_at_all(fields, named):
    with pytest.raises(InvalidInput, match=named):
        Hosts(**fields)


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        ({"SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2"}, True),
        ({"MEGASCALE_NUM_SLICES": "2"}, True),
    ],
)
def test_a_scheduler_is_believed_where_it_names_several_processes(environment, several):
    assert _is_started_by_scheduler(environment) == several


def test_the_code_has_one_version():
    assert re.fullmatch("[0-9a-f]{64}", code_version())
    assert code_version() == code_version()
