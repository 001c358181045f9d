"""Several processes as one job: real processes on this machine, gloo between them."""

import os
import re
import subprocess
import sys

import pytest
from real_jobs import ENVIRONMENT, ROOT, free_port, write_config

from bokeh_jax.errors import InvalidInput
from bokeh_jax.training.hosts import Hosts, code_version


def test_processes_with_different_configs_stop_and_say_so(tiny, tmp_path):
    config = tmp_path / "job.py"
    write_config(config, tiny)
    port = free_port()
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "bokeh_jax.training.train", f"--config={config}"),
                *(f"--workdir={tmp_path / 'run'}", f"--coordinator=localhost:{port}"),
                *("--num-processes=2", f"--process-index={index}", f"--config.seed={index}"),
            ],
            cwd=ROOT,
            env=os.environ | ENVIRONMENT | {"JAX_NUM_CPU_DEVICES": "1"},
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


def test_the_code_has_one_version():
    assert re.fullmatch("[0-9a-f]{64}", code_version())
    assert code_version() == code_version()
