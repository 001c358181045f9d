"""slurm.sbatch and tpu_vm.sh: what they start, and on which exit codes they start it again.

What stands in for srun, scontrol and gcloud writes down how it was called. (A real Slurm:
test_slurm_cluster.py.)
"""

import os
import re
import subprocess
from pathlib import Path

import pytest

from bokeh_jax.training.preemption import EXIT_PREEMPTED

LAUNCH = Path(__file__).parent.parent.parent / "launch"


def put(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(("#!/bin/bash", *lines, "")))
    path.chmod(0o755)


def run(script, tmp_path, *arguments, **environment):
    return subprocess.run(
        ["bash", str(LAUNCH / script), *arguments],
        env=os.environ
        | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "HOME": str(tmp_path)}
        | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("code", "state", "requeued"),
    [
        (EXIT_PREEMPTED, "RUNNING", True),
        # `scancel JOB`: saved, but not wanted any more.
        (EXIT_PREEMPTED, "COMPLETING", False),
        (0, "RUNNING", False),
        (2, "RUNNING", False),
        (134, "RUNNING", False),
    ],
)
def test_slurm_queues_a_job_again_where_it_was_preempted(tmp_path, code, state, requeued):
    folder, calls = tmp_path / "bin", tmp_path / "calls"
    # The shell gets the signal that the processes get, and has to live on.
    put(folder / "srun", f'printf "%s\\n" "$@" > {calls}', "kill -TERM $PPID", f"exit {code}")
    put(folder / "squeue", f"echo {state}")
    put(folder / "scontrol", f'echo "scontrol $*" >> {calls}')
    done = run(
        *("slurm.sbatch", tmp_path, "--config=a b", "--workdir=w"),
        SLURM_JOB_ID="7",
        SLURM_CPUS_PER_TASK="3",
        PYTHON="python-of-the-job",
    )
    assert done.returncode == code, done.stderr
    assert f"job 7, restart 0: exit code {code}" in done.stdout
    called = calls.read_text().splitlines()
    assert ("scontrol requeue 7" in called) == requeued
    start = called.index("python-of-the-job")
    assert called[start + 1 : start + 5] == [
        *("-m", "bokeh_jax.training.train", "--config=a b", "--workdir=w"),
    ]
    # Lines of the log name their process; who leaves first does not cut off a partner's save.
    assert {"--label", "--kill-on-bad-exit=0", "--cpus-per-task=3"} <= set(called[:start])


def test_slurm_is_asked_for_what_a_restart_needs():
    asked = re.findall(r"^#SBATCH (--\S+)", (LAUNCH / "slurm.sbatch").read_text(), re.MULTILINE)
    assert {"--requeue", "--open-mode=append", "--signal=TERM@300"} <= set(asked)
    # One GPU for each process, and no binding that hides the others.
    numbers = dict(option.split("=") for option in asked if "=" in option)
    assert numbers["--ntasks-per-node"] == numbers["--gpus-per-node"]
    assert not any(option.startswith(("--gpus-per-task", "--gpu-bind")) for option in asked)


@pytest.fixture
def tpu_vm(tmp_path):
    """Runs tpu_vm.sh; the TPU's only worker is this machine, whose training ends as told."""

    def give(codes, states=("READY",), arguments=("--config=a b", "--workdir=it's")):
        for name, answers in (("codes", codes), ("states", states)):
            (tmp_path / name).write_text("".join(f"{answer}\n" for answer in answers))

        def next_of(name):
            file = tmp_path / name
            return f"$(head -n 1 {file}; sed -i 1d {file})"

        put(
            tmp_path / "bokeh_jax" / ".venv" / "bin" / "python",
            f'printf "%s\\n" "$@" >> {tmp_path / "trained"}',
            "echo step 1; echo careful >&2",
            f"exit {next_of('codes')}",
        )
        put(
            tmp_path / "bin" / "gcloud",
            f'printf "%s\\n" "$@" >> {tmp_path / "asked"}',
            f'if [[ $4 == describe ]]; then echo "{next_of("states")}"; exit; fi',
            'for each in "$@"; do',
            "  case $each in --command=*)",
            '    cd; HOSTNAME=t1v-n-w-3 bash -c "${each#*=}"; exit ;; esac',
            "done",
        )
        return run("tpu_vm.sh", tmp_path, "pod", "zone", *arguments)

    return give


@pytest.mark.parametrize(
    ("codes", "runs", "code"),
    [((0,), 1, 0), ((75, 75, 0), 3, 0), ((75, 2, 0), 2, 2), ((134, 0), 1, 134)],
)
def test_a_tpu_vm_starts_a_job_again_where_it_was_preempted(tpu_vm, tmp_path, codes, runs, code):
    done = tpu_vm(codes, states=["READY"] * 3)
    assert done.returncode == code, done.stderr
    trained = (tmp_path / "trained").read_text().splitlines()
    assert trained == ["-m", "bokeh_jax.training.train", "--config=a b", "--workdir=it's"] * runs
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked.count("--worker=all") == runs
    assert asked.count("--zone=zone") == len([a for a in asked if a in ("ssh", "describe")])
    # Lines of the log name their worker, those of stderr too.
    assert done.stdout.count("3: step 1\n") == runs
    assert done.stdout.count("3: careful\n") == runs


def test_a_tpu_that_was_taken_away_is_not_waited_for(tpu_vm):
    done = tpu_vm((75, 0), states=["PREEMPTED"])
    assert done.returncode == EXIT_PREEMPTED
    assert "pod is PREEMPTED: create it again, then give the same command" in done.stderr


def test_a_tpu_vm_needs_its_name_and_zone(tpu_vm):
    done = tpu_vm((0,), arguments=())
    assert done.returncode == 2
    assert done.stderr == "error: 2 arguments; allowed: TPU_NAME ZONE and what the training gets\n"


@pytest.mark.parametrize("script", ["slurm.sbatch", "tpu_vm.sh"])
def test_scripts_know_the_exit_code_of_the_trainer(script):
    assert re.search(rf"^EXIT_PREEMPTED={EXIT_PREEMPTED}\b", (LAUNCH / script).read_text(), re.M)
