"""`eval --all` and `--watch`, by processes of their own beside what writes the checkpoints."""

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from concurrent import futures

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from board_points import points_of
from random_runs import perturbed, started

from bokeh_jax.cli import main
from bokeh_jax.commands.evaluate import folder_of, read_images
from bokeh_jax.evaluation.methods import METHODS
from bokeh_jax.training.checkpoint import DataPosition
from bokeh_jax.training.saver import open_saver
from bokeh_jax.training.state import abstract_state

PATIENCE = float(os.environ.get("TEST_PATIENCE_SECONDS", "240"))
KEY = "eval_heldout/refocus"


@pytest.fixture(scope="module")
def states(tiny):
    """Checkpoints of the steps 3, 7 and 12, each with other random parameters."""
    shapes = abstract_state(tiny)
    zeros = jax.tree.map(lambda leaf: jnp.asarray(np.zeros(leaf.shape, leaf.dtype)), shapes)

    def answers_start_at_0(path, leaf):
        return 0 * leaf if "final_layer" in jax.tree_util.keystr(path) else leaf

    start = jax.tree_util.tree_map_with_path(answers_start_at_0, started(shapes.params, 0))
    return {
        step: dataclasses.replace(
            zeros, params=start, ema=perturbed(start, step, scale=0.02 * step)
        )
        for step in (3, 7, 12)
    }


def save(workdir, config, states, *steps):
    for step in steps:
        with open_saver(workdir, config, "") as saver:
            saver.save(jax.device_put(states[step]), DataPosition(step, 3, "0123456789abcdef"))


@pytest.fixture(scope="module")
def evaluated(tiny, states, tmp_path_factory):
    """A run whose steps 3 and 7 are evaluated in this process, on one device."""
    workdir = tmp_path_factory.mktemp("evaluated") / "run"
    save(workdir, tiny, states, 3, 7)
    assert main(["eval", f"--workdir={workdir}", "--all"]) == 0
    return workdir


def scores(workdir, step):
    return json.loads((folder_of(workdir, step, use_ema=True) / "scores.json").read_text())


def process_of(workdir, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "bokeh_jax.cli", "eval", f"--workdir={workdir}", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process):
    out, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, error[-3000:]
    return out


def test_all_evaluates_every_step_with_its_own_parameters(evaluated):
    found = {step: scores(evaluated, step)["scores"][KEY]["psnr_db"] for step in (3, 7)}
    assert found[3]["model"]["mean"] - found[7]["model"]["mean"] > 0.1
    assert found[3]["lens_blur"] == found[7]["lens_blur"], "the same questions"
    newest = json.loads((evaluated / "evaluation" / "scores.json").read_text())
    assert newest["step"] == 7
    images = read_images(folder_of(evaluated, 7, use_ema=True))[KEY]
    blends = scores(evaluated, 7)["scores"][KEY]["stacked_psnr_db"]
    for name in METHODS:
        assert images[name].mean() == pytest.approx(found[7][name]["mean"], abs=1e-4)
        assert images[f"stacked_{name}"].mean() == pytest.approx(blends[name]["mean"], abs=1e-4)
    points = points_of(evaluated / "tensorboard" / "evaluation")
    points = {step: v for step, name, v in points if name == f"psnr_db/{KEY}/model"}
    assert points == pytest.approx(
        {step: found[step]["model"]["mean"] for step in (3, 7)}, abs=1e-4
    )


def test_what_is_evaluated_is_not_again_unless_asked_otherwise(evaluated, tmp_path, capsys):
    """And a checkpoint that cannot be read is left out of all."""
    workdir = shutil.copytree(evaluated, tmp_path / "run")
    assert main(["eval", f"--workdir={workdir}", "--all"]) == 0
    assert capsys.readouterr().out == ""
    before = folder_of(workdir, 7, use_ema=True).stat().st_mtime_ns
    shutil.rmtree(workdir / "checkpoints" / "3" / "state")
    # Other questions: done again.
    few = "--config.evaluation.num_scenes=2"
    assert main(["eval", f"--workdir={workdir}", "--all", few]) == 0
    said = capsys.readouterr().out
    assert "step 3 left out: " in said
    assert "step 7; PSNR" in said
    assert "(2 images)" in said
    assert folder_of(workdir, 7, use_ema=True).stat().st_mtime_ns > before
    # Asked for by name it is an error.
    assert main(["eval", f"--workdir={workdir}", "--step=3", few]) == 2
    assert "checkpoints/3" in capsys.readouterr().err


@pytest.mark.long
def test_two_processes_answer_as_one(evaluated, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(evaluated / "checkpoints", workdir / "checkpoints")
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        port = listener.getsockname()[1]
    job = [f"--coordinator=localhost:{port}", "--num-processes=2"]
    # Parameters are cut over both; a batch of 5 has to be filled up, as have 8 scenes.
    asked = ["--step=7", "--config.mesh.fsdp=2", "--config.mesh.min_sharded_bytes=0"]
    asked += ["--config.evaluation.batch_size=5"]
    processes = [process_of(workdir, *job, f"--process-index={i}", *asked) for i in (0, 1)]
    said = [ended(process) for process in processes]
    assert said[0].count("PSNR in dB") == 1
    assert "PSNR" not in said[1]
    one, two = (read_images(folder_of(w, 7, use_ema=True)) for w in (evaluated, workdir))
    for key, methods in one.items():
        for name, values in methods.items():
            np.testing.assert_allclose(two[key][name], values, atol=2e-3, err_msg=name)


def test_watching_takes_each_new_checkpoint_once_and_ends_with_the_run(
    evaluated, tiny, states, tmp_path, capsys
):
    workdir, newest = tmp_path / "run", tmp_path / "newest"
    save(newest, tiny, states, 12)
    said = ""

    def writes_checkpoints():
        nonlocal said
        deadline = time.monotonic() + PATIENCE
        # Nothing is there yet.
        while "has no checkpoint yet" not in said:
            assert time.monotonic() < deadline
            said += capsys.readouterr().out
            time.sleep(0.05)
        # Steps that are evaluated already, and the run's last one, which ends it.
        shutil.copytree(evaluated / "evaluation", workdir / "evaluation")
        shutil.copytree(evaluated / "checkpoints", tmp_path / "checkpoints")
        (tmp_path / "checkpoints").rename(workdir / "checkpoints")
        time.sleep(1.0)
        (newest / "checkpoints" / "12").rename(workdir / "checkpoints" / "12")
        return folder_of(workdir, 7, use_ema=True).stat().st_mtime_ns

    with futures.ThreadPoolExecutor() as pool:
        before = pool.submit(writes_checkpoints)
        assert main(["eval", f"--workdir={workdir}", "--watch", "--poll-seconds=0.2"]) == 0
    said += capsys.readouterr().out
    assert said.count("PSNR in dB") == 1
    assert "step 12; PSNR" in said
    assert folder_of(workdir, 7, use_ema=True).stat().st_mtime_ns == before.result()


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (("--step=3", "--all"), "not allowed with"),
        (("--watch", "--poll-seconds=0"), "--poll-seconds is 0.0; allowed: above 0"),
        (("--step=5",), "step 5"),
    ],
)
def test_what_cannot_be_asked_is_refused(evaluated, capsys, argv, named):
    with pytest.raises(SystemExit) as left:
        sys.exit(main(["eval", f"--workdir={evaluated}", *argv]))
    assert left.value.code == 2
    assert named in capsys.readouterr().err
