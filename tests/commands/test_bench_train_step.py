"""`bokeh-jax bench train-step`: what it refuses, its figures, our step, and torch's where it is."""

import dataclasses
import importlib.util
import json
import os
import sys

import jax
import numpy as np
import pytest

from bokeh_jax.cli import main
from bokeh_jax.commands import bench_train_step as bench
from bokeh_jax.commands import bench_train_step_ours as ours_lib
from bokeh_jax.commands import bench_train_step_peer as peer_lib
from bokeh_jax.commands.bench_train_step_report import (
    RealStep,
    Report,
    Same,
    Setting,
    Side,
    Spread,
    Turn,
    as_json,
    lines,
)
from bokeh_jax.errors import InvalidInput

TORCH = all(importlib.util.find_spec(name) for name in ("torch", "diffusers"))
SMALL = ("--hidden=16", "--heads=2", "--double=1", "--single=1", "--tokens=6", "--context=2")
SMALLEST = (*SMALL, "--batch=2", "--repeats=2")


def side(seconds, cpu_seconds, rate=4e9):
    turns = [Turn(float(x), float(y)) for x, y in zip(seconds, cpu_seconds, strict=True)]
    return Side("a side", 1234, 2e9, turns, [rate] * len(turns))


def report(ours, theirs, **changes):
    fields = {
        "setting": bench._SMALL,
        "device": "cpu (cpu)",
        "threads": 2,
        "load": (0.5, 1.0, 2.0),
        "same": None if theirs is None else Same(1e-6, 2e-5),
        "real": None,
    }
    return Report(ours=ours, theirs=theirs, **(fields | changes))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--hidden=8",), "--hidden is 8; allowed: 16 to 16384"),
        (("--heads=7",), "--hidden is 512 and --heads 7; allowed"),
        (("--hidden=18", "--heads=2"), "--hidden is 18 and --heads 2; allowed"),
        (("--hidden=16", "--heads=4"), "--hidden is 16 and --heads 4; allowed"),
        (("--double=0", "--single=0"), "--double and --single are 0; allowed: at least one"),
        (("--repeats=0",), "--repeats is 0; allowed: 1 to 1000"),
        (("--batch=0",), "--batch is 0; allowed"),
        (("--threads=0",), "--threads is 0; allowed: 1 to"),
        (("--threads=100000",), "--threads is 100000; allowed: 1 to"),
        (("--alone", "--check"), "--check is given; allowed only without --alone"),
        (("--alone", "--torch-compile"), "--torch-compile is given; allowed only without"),
        (("--config.seed=1",), "--config.seed=1 is given; allowed only with --config"),
        (("--alone", "--config=nowhere.py"), "config file nowhere.py not found"),
        (("--json=nowhere/figures.json",), "--json is nowhere/figures.json, which cannot be"),
        (("--torch-python=/nowhere/python",), "--torch-python is /nowhere/python, which does not"),
        (("--dtype=float16",), "--dtype"),
    ],
)
def test_refused_in_one_line(capsys, options, named):
    assert main(["bench", "train-step", *options]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert named in said.err
    assert said.err.count("\n") == 1


def test_a_python_without_torch_is_refused(capsys, tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S -I "$@"\n')
    python.chmod(0o755)
    assert main(["bench", "train-step", f"--torch-python={python}"]) == 2
    said = capsys.readouterr().err
    assert "(ModuleNotFoundError: No module named 'diffusers')" in said
    assert "--alone" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("hidden", "heads", "axes"),
    [(3072, 24, (16, 56, 56)), (512, 8, (8, 28, 28)), (1152, 16, (8, 32, 32)), (12, 2, (2, 2, 2))],
)
def test_axes_of_a_head(hidden, heads, axes):
    assert bench.rope_axes(hidden, heads) == axes
    assert sum(axes) == hidden // heads


def test_ratios_are_taken_turn_by_turn():
    # The machine is slow in the second turn, for both.
    found = report(side((1, 8, 2), (2, 2, 4)), side((2, 8, 3), (1, 2, 6)))
    assert found.speed == Spread(1.5, 1.0, 2.0)
    assert found.cpu_speed == Spread(1.0, 0.5, 1.5)
    assert found.holds
    # 2 GFLOP in 2 s, of 4 GFLOP/s.
    assert found.share_of_rate(found.ours) == 0.25
    faster = dataclasses.replace(found, theirs=side((2, 8, 3), (1, 2, 6), rate=8e9))
    assert faster.share_of_rate(faster.ours) == 0.125
    text = "\n".join(lines(found))
    assert "speed: 1.50 (1.00 to 2.00) times torch's, by processor time 1.00 (0.50 to 1.50)" in text
    assert "must: at least 0.85 times torch's speed: 1.50, holds" in text
    assert "load 0.5, 1.0, 2.0" in text


@pytest.mark.parametrize(("seconds", "holds"), [(0.84, False), (0.86, True)])
def test_the_demand(monkeypatch, capsys, seconds, holds):
    found = report(side((1,), (1,)), side((seconds,), (1,)))
    assert found.holds is holds
    assert as_json(found)["must"] == {"least_speed": 0.85, "holds": holds}
    monkeypatch.setattr(bench, "_measure", lambda *_: found)
    assert main(["bench", "train-step", "--check"]) == (0 if holds else 1)
    assert main(["bench", "train-step"]) == 0
    assert ("holds" if holds else "missed") in capsys.readouterr().out


def test_the_network_is_what_is_left_of_the_step():
    real = RealStep("demo", 48, step_seconds=1.0, simulation_seconds=0.2, optimizer_seconds=0.05)
    assert real.network_seconds == pytest.approx(0.75)
    found = report(side((1,), (1,)), None, real=real)
    assert "network 750 ms (75 %), simulation and losses 200 ms (20 %)" in lines(found)[-1]
    assert as_json(found)["real"]["network_seconds"] == pytest.approx(0.75)


def test_ours_alone(capsys, tmp_path):
    path = tmp_path / "figures.json"
    assert main(["bench", "train-step", *SMALLEST, "--alone", f"--json={path}"]) == 0
    said = capsys.readouterr().out
    found = json.loads(path.read_text())
    assert found["theirs"] is found["same"] is found["real"] is found["speed"] is None
    assert found["must"]["holds"] is None
    assert len(found["ours"]["turns"]) == len(found["ours"]["matrix_flops_per_s"]) == 2
    assert 0 < found["ours"]["seconds"]["least"] <= found["ours"]["seconds"]["median"]
    assert found["ours"]["share_of_matrix_rate"] > 0
    assert found["setting"]["tokens"] == 6
    assert f"{found['ours']['num_params']:,} parameters" in said
    assert "speed:" not in said


@pytest.mark.long
def test_an_experiment_by_part(capsys, tmp_path):
    experiment = tmp_path / "tiny.py"
    experiment.write_text(
        "from tiny_experiment import TINY\n"
        "from bokeh_jax.config import experiment\n"
        "def get_config():\n    return experiment(**TINY)\n"
    )
    path = tmp_path / "figures.json"
    options = ("--alone", f"--json={path}", f"--config={experiment}", "--config.name=other")
    assert main(["bench", "train-step", *SMALLEST, *options]) == 0
    found = json.loads(path.read_text())["real"]
    assert found["config"] == "other"
    assert found["num_scenes"] == 4
    assert 0 < found["simulation_seconds"] < found["step_seconds"]
    assert 0 < found["optimizer_seconds"] < found["step_seconds"]
    assert "train step of other, 4 scenes: " in capsys.readouterr().out


def test_our_step_trains():
    setting = Setting(
        hidden=16, heads=2, double=1, single=1, tokens=6, context=2, batch=2, rope_axes=(4, 2, 2),
        dtype="float32",
    )  # fmt: skip
    inputs = ours_lib.make_inputs(setting)
    assert inputs["image_ids"].shape == (2, 6, 3)
    config = ours_lib.dit_config(setting)
    loss, output = jax.jit(ours_lib.forward_loss, static_argnums=0)(
        config, ours_lib.init_params(config, inputs), inputs
    )
    # The output layer starts at 0.
    np.testing.assert_array_equal(output, 0)
    np.testing.assert_allclose(loss, np.mean(np.square(inputs["target"])), rtol=1e-6)


def test_state_goes_from_call_to_call():
    seen = []

    def update(state, rest):
        jax.debug.callback(lambda value: seen.append(int(value)), state)
        return state + rest, state

    call = ours_lib._with_state(update, jax.numpy.int32(3), jax.numpy.int32(2))
    for _ in range(3):
        call()
    jax.effects_barrier()
    assert seen == [3, 5, 7]


def test_time_of_all_threads_is_counted():
    def busy():
        end = os.times().user + 0.1
        while os.times().user < end:
            pass

    turn = ours_lib.timed(busy)
    assert turn.cpu_seconds >= 0.09
    assert turn.seconds > 0


def test_threads_are_cores_of_both_sides():
    before = os.sched_getaffinity(0)
    with bench._on_cores(1):
        inside = os.sched_getaffinity(0)
    assert inside == {min(before)}
    assert os.sched_getaffinity(0) == before


def test_a_peer_that_ends_says_why(monkeypatch, tmp_path):
    program = tmp_path / "peer.py"
    program.write_text(
        "import sys\nprint('{}', flush=True)\nsys.stdin.readline()\n"
        "print('first', file=sys.stderr)\nraise MemoryError('no room')\n"
    )
    monkeypatch.setattr(peer_lib, "_PROGRAM", program)
    with peer_lib.started(sys.executable, {}) as peer:
        assert peer.told == {}
        with pytest.raises(InvalidInput, match=r"ended with code 1 \(MemoryError: no room\)"):
            peer.ask("step")
        with pytest.raises(InvalidInput, match="no room"):
            peer.ask("step")


def test_the_peer_is_ended_with_the_bench(monkeypatch, tmp_path):
    program = tmp_path / "peer.py"
    program.write_text("import time\nprint('{}', flush=True)\ntime.sleep(60)\n")
    monkeypatch.setattr(peer_lib, "_PROGRAM", program)
    with pytest.raises(KeyboardInterrupt), peer_lib.started(sys.executable, {}) as peer:
        raise KeyboardInterrupt
    assert peer.process.returncode == -9


@pytest.mark.long
@pytest.mark.skipif(not TORCH, reason="needs torch and diffusers")
def test_torch_beside_ours(capsys, tmp_path):
    """`make test`: our side alone, and peers that end; FLUX's parity in test_flux_parity.py."""
    path = tmp_path / "figures.json"
    assert main(["bench", "train-step", *SMALLEST, f"--json={path}"]) == 0
    found = json.loads(path.read_text())
    assert found["ours"]["num_params"] == found["theirs"]["num_params"]
    assert found["theirs"]["step_flops"] == pytest.approx(found["ours"]["step_flops"], rel=0.1)
    assert found["same"]["output"] < 1e-4
    assert found["same"]["gradient"] < 1e-3
    assert "must: at least 0.85" in capsys.readouterr().out
