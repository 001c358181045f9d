"""A real process: traced by flag and by signal, killed, continued; what its record says of that."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest
from real_jobs import ENVIRONMENT, ROOT

from bokeh_jax import config as config_lib
from bokeh_jax.config import resolve
from bokeh_jax.errors import InvalidInput
from bokeh_jax.training.goodput import GOODPUT_FILE, GoodputRecord
from bokeh_jax.training.profiling import Profiler, StepRange, check_steps, parse_steps
from bokeh_jax.training.train import main, train
from bokeh_jax.training.writers import METRICS_FILE, read_metrics


def trace_of(folder):
    """The profile in a folder, once it is written; None before."""
    files = list(folder.glob("plugins/profile/*/*.xplane.pb"))
    return jax.profiler.ProfileData.from_file(str(files[0])) if files else None


def steps_in(trace):
    """Numbers of the steps that a profile holds."""
    return sorted(
        dict(event.stats)["step_num"]
        for plane in trace.planes
        for line in plane.lines
        for event in line.events
        if event.name == "train"
    )


@pytest.mark.parametrize("text", ["20", "20:", ":25", "a:b", "25:20", "20:20", "-1:3", "1:2:3"])
def test_steps_that_are_none_are_refused(text, tmp_path, capsys):
    arguments = ["--config=configs/demo.py", f"--workdir={tmp_path / 'run'}"]
    assert main([*arguments, f"--profile_steps={text}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: --profile-steps is {text!r}; allowed: FROM:TO")
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_steps_that_no_run_reaches_are_refused(tiny, tmp_path):
    assert parse_steps(None) is None
    assert parse_steps("20:25") == StepRange(20, 25)
    check_steps(StepRange(11, 99), 12)
    with pytest.raises(InvalidInput, match=r"12:14; allowed: FROM below training.num_steps=12"):
        train(tiny, tmp_path / "run", visible=False, profile_steps=StepRange(12, 14))
    assert not (tmp_path / "run").exists()


def test_a_trace_that_the_end_cuts_short_is_written(tmp_path, capfd):
    profiler = Profiler(tmp_path, StepRange(1, 50))
    for step in range(3):
        profiler.at_step(step, jnp.zeros(()))
        with jax.profiler.StepTraceAnnotation("train", step_num=step + 1):
            pass
    assert not list(tmp_path.rglob("*.pb"))
    profiler.request()  # at any time; a trace is being made
    profiler.close(3, jnp.zeros(()))
    assert steps_in(trace_of(tmp_path / "1")) == [2, 3]
    assert capfd.readouterr().err == f"process 0: profile of the steps up to 3: {tmp_path / '1'}\n"
    # Closed means closed, and a run that begins after the steps has none to trace.
    profiler.close(3, jnp.zeros(()))
    later = Profiler(tmp_path, StepRange(1, 3))
    later.at_step(3, jnp.zeros(()))
    later.close(4, jnp.zeros(()))
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_a_trace_that_cannot_be_made_costs_no_run(tmp_path, capfd):
    (tmp_path / "file").write_text("in the way")
    profiler = Profiler(tmp_path / "file", StepRange(0, 1))
    profiler.at_step(0, jnp.zeros(()))
    profiler.at_step(1, jnp.zeros(()))
    first = Profiler(tmp_path, StepRange(0, 9))
    first.at_step(0, jnp.zeros(()))
    second = Profiler(tmp_path / "second", StepRange(0, 9))
    second.at_step(0, jnp.zeros(()))
    second.at_step(1, jnp.zeros(()))
    first.abandon()
    said = capfd.readouterr().err
    assert f"no profile in {tmp_path / 'file' / '0'}: " in said
    assert said.count(f"no profile in {tmp_path / 'second' / '0'}: ") == 1
    # What was abandoned is not in the way of another.
    third = Profiler(tmp_path / "third", StepRange(0, 1))
    third.at_step(0, jnp.zeros(()))
    third.at_step(1, jnp.zeros(()))
    assert trace_of(tmp_path / "third" / "0")


@pytest.fixture
def started():
    """Starts a process that does not outlive the test."""
    processes = []

    def start(*command):
        processes.append(
            subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | ENVIRONMENT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def wait_for(condition, process, what):
    deadline = time.monotonic() + 300
    while not (found := condition()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
    return found


@pytest.mark.long  # `make test`: traces in the tests above, kills in test_exact.py.
def test_a_process_traced_killed_and_continued(tiny, tmp_path, capsys, started):
    config, workdir = tmp_path / "long.py", tmp_path / "run"
    changes = json.loads(config_lib.to_json(tiny))
    changes["training"] |= {"num_steps": 100_000, "image_every_steps": 0}
    changes["training"] |= {"checkpoint_every_steps": 7}
    config.write_text(
        "import json\n"
        "from bokeh_jax.config import experiment\n"
        f"def get_config():\n    return experiment(**json.loads({json.dumps(changes)!r}))\n"
    )
    module = (sys.executable, "-m", "bokeh_jax.training.train")
    process = started(*module, f"--config={config}", f"--workdir={workdir}", "--profile_steps=2:4")
    metrics = workdir / METRICS_FILE

    def reported(step):
        return metrics.exists() and any(line["step"] >= step for line in read_metrics(metrics))

    # A trace is written before the next step is queued.
    wait_for(lambda: reported(5), process, "trace by flag")
    by_flag = trace_of(workdir / "profile" / "2")
    assert steps_in(by_flag) == [3, 4]
    # The step itself is in the trace: operations, not only the call.
    events = {
        event.name for plane in by_flag.planes for line in plane.lines for event in line.events
    }
    assert any("fusion" in name for name in events), sorted(events)[:200]
    process.send_signal(signal.SIGUSR1)

    def second():
        return [int(path.name) for path in (workdir / "profile").iterdir() if path.name != "2"]

    (began,) = wait_for(second, process, "trace by signal")
    wait_for(lambda: reported(max(began + 6, 15)), process, "steps after the trace")
    by_signal = trace_of(workdir / "profile" / str(began))
    assert steps_in(by_signal) == list(range(began + 1, began + 6))
    process.kill()
    said, _ = process.communicate()
    # Where there is no terminal, lines say how it goes.
    assert "TFLOP/s" in said

    # The save after step 14 waited for the end of the one before.
    assert any(line.get("checkpoint_background_seconds", 0) > 0 for line in read_metrics(metrics))

    first = read_metrics(workdir / GOODPUT_FILE)
    killed_at = first[-1]["step"]
    changes["training"]["num_steps"] = killed_at + 3
    train(resolve(changes), workdir)
    said = capsys.readouterr().out
    lines = read_metrics(workdir / GOODPUT_FILE)
    loops = [line for line in lines if line["event"] == "loop"]
    restored = loops[1]["step"]
    assert loops[0]["step"] == 0
    assert restored % 7 == 0
    assert restored > 0
    assert f"at step {restored}" in said
    assert [line["event"] for line in lines[len(first) :]][:2] == ["start", "loop"]
    assert lines[-1]["event"] == "end"
    assert "goodput" in said.splitlines()[-1]
    assert "% of" in said.splitlines()[-1]

    # The same sums in another way: what each step of the first process took, with its own line.
    record = GoodputRecord(workdir / GOODPUT_FILE, lines[-1]["time"])
    seconds = record.ledger.seconds
    assert sum(seconds.values()) == pytest.approx(lines[-1]["time"] - lines[0]["time"], abs=0.01)
    lost = sum(
        after["time"] - before["time"] - sum(after["seconds"].values())
        for before, after in itertools.pairwise(first)
        if after["step"] > restored
    )
    assert seconds["repeated"] == pytest.approx(lost, abs=0.05)
    down = lines[len(first)]["time"] - first[-1]["time"]
    assert seconds["down"] == pytest.approx(down, abs=0.01)
    assert seconds["compile"] > 0
    assert seconds["steps"] > 0
    assert seconds["checkpoint"] > 0
    lines = read_metrics(metrics)
    assert [line["step"] for line in lines] == list(range(1, killed_at + 4))
    assert 0 < lines[-1]["goodput_percent"] < 100
    assert sum(line["checkpoint_seconds"] > 0 for line in lines) >= 2
    assert all(line["parameter_norm"] > 0 for line in lines)
    assert [line["examples"] for line in lines] == [4 * line["step"] for line in lines]
