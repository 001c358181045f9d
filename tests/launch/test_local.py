"""The launcher of several processes: real processes that end as they are told."""

import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import pytest

PATH = Path(__file__).parent.parent.parent / "launch" / "local.py"


@pytest.fixture
def local():
    spec = importlib.util.spec_from_file_location("launch_local", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ending_with(*codes):
    return [subprocess.Popen([sys.executable, "-c", f"raise SystemExit({c})"]) for c in codes]


@pytest.mark.parametrize(("codes", "code"), [((0, 0), 0), ((0, 3), 3), ((75, 75), 75)])
def test_the_code_is_the_first_that_is_not_zero(local, codes, code):
    assert local.wait(ending_with(*codes)) == code


def test_a_signal_counts_as_in_a_shell(local):
    aborted = subprocess.Popen([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])
    assert local.wait([aborted, *ending_with(0)]) == 137


def test_a_failure_ends_the_others(local):
    stuck = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    started = time.monotonic()
    assert local.wait([stuck, *ending_with(2)], grace_seconds=0.5) == 2
    assert time.monotonic() - started < 60
    assert stuck.returncode == -9


@pytest.mark.parametrize(
    ("codes", "restarts", "jobs", "code"),
    [((75, 75, 0), 5, 3, 0), ((75, 75, 75), 1, 2, 75), ((75, 2), 5, 2, 2), ((0,), 5, 1, 0)],
)
def test_a_job_is_started_again_only_where_it_was_preempted(
    local, monkeypatch, codes, restarts, jobs, code
):
    started = []

    def start(count, devices, arguments):
        started.append((count, devices, arguments))
        return ending_with(codes[len(started) - 1], 0)

    monkeypatch.setattr(local, "start", start)
    monkeypatch.setattr(
        sys, "argv", ["local.py", "--processes=2", f"--restarts={restarts}", "--", "--a=b"]
    )
    handlers = [(n, local.signal.getsignal(n)) for n in (local.signal.SIGTERM, local.signal.SIGINT)]
    try:
        assert local.main() == code
    finally:
        for number, handler in handlers:
            local.signal.signal(number, handler)
    assert started == [(2, 1, ["--a=b"])] * jobs


def test_processes_get_one_address_and_their_numbers(local, tmp_path, monkeypatch):
    program = tmp_path / "told"
    program.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\" > $(dirname $0)/$$\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    assert local.wait(local.start(2, 1, ["--config=c"])) == 0
    told = [set(path.read_text().split()) for path in tmp_path.iterdir() if path.name.isdigit()]
    assert all({"bokeh_jax.training.train", "--config=c", "--num-processes=2"} <= t for t in told)
    (coordinator,) = (
        set.intersection(*told)
        - {"-m", "bokeh_jax.training.train"}
        - {
            "--config=c",
            "--num-processes=2",
        }
    )
    assert coordinator.startswith("--coordinator=localhost:")
    assert {next(a for a in t if "index" in a) for t in told} == {
        "--process-index=0",
        "--process-index=1",
    }
