"""The one loop trains the focus distance transformer, without anything that is hidden."""

import contextlib
import io
import json

import jax
import numpy as np
import pytest
from focus_scenes import BLUR_FRACTION, FOCUSED, FocusScenes

from bokeh_jax import config as config_lib
from bokeh_jax.cli import main
from bokeh_jax.errors import InvalidInput
from bokeh_jax.evaluation.focus import BASELINES, MODEL
from bokeh_jax.training import preflight
from bokeh_jax.training.executables import loader_config
from bokeh_jax.training.step import abstract_batch
from bokeh_jax.training.train import train
from data_pipeline.builder import build
from data_pipeline.hidden import load_hidden
from data_pipeline.loader import make_loader
from data_pipeline.order import Shape

SETTINGS = {
    "name": "focus_tiny",
    "task": "focus",
    "focus": {
        "patch_size": 4,
        "hidden_dim": 16,
        "num_heads": 2,
        "num_blocks": 1,
        "rope_axes_dim": (4, 2, 2),
    },
    "exif": {"num_candidates": 3, "max_blur_fraction": BLUR_FRACTION},
    "optimizer": {"peak_learning_rate": 1e-2, "warmup_steps": 2, "ema_decay": 0.8},
    "training": {
        "num_steps": 100,
        "global_batch_size": 8,
        "log_every_steps": 10,
        "image_every_steps": 100,
        "checkpoint_every_steps": 40,
    },
    "evaluation": {"num_scenes": 12, "batch_size": 12, "splits": ("eval_heldout",)},
}
COUNTS = {"train": 160, "eval_heldout": 12}


def config_of(path, **changes):
    return config_lib.resolve(SETTINGS | {"data": {"path": str(path)}} | changes)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    path = tmp_path_factory.mktemp("focus") / "strips"
    build(FocusScenes(), path, counts=COUNTS, num_workers=0)
    return path


@pytest.fixture(scope="module")
def run(photographs, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("focus_run")
    train(config_of(photographs), workdir, visible=False)
    return workdir


@pytest.fixture(scope="module")
def said(run):
    """What `eval` prints of the run."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["eval", f"--workdir={run}"]) == 0
    return out.getvalue()


def test_a_run_learns_where_photographs_are_focused(run, said):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.5 * losses[0]
    assert "eval_heldout (12 photographs)" in said
    folder = run / "evaluation" / "step_100"
    scores = json.loads((folder / "scores.json").read_text())["scores"]["eval_heldout"]
    within = {name: mean["mean"] for name, mean in scores["within"]["0.25"].items()}
    # Only the middle depth is in focus: no rule of thumb finds it.
    assert within[MODEL] == within["search"] == 1.0
    assert within["nearest"] == 0.0
    assert scores["gain_within"]["0.25"]["nearest"]["mean"] == 1.0
    assert scores["disparity_error"][MODEL]["mean"] < 0.05
    assert set(BASELINES) < set(within)
    assert (folder / "eval_heldout-attention.png").stat().st_size > 1000
    rows = (folder / "photographs.csv").read_text().splitlines()
    assert len(rows) == 13
    assert {float(row.split(",")[2]) for row in rows[1:]} == {FOCUSED}
    assert list((run / "tensorboard").rglob("events*"))


@pytest.mark.usefixtures("said")
def test_a_report_is_of_refocusing(run, capsys):
    assert main(["report", f"--workdir={run}"]) == 2
    assert "is a run with task='focus'; allowed: 'refocus'" in capsys.readouterr().err


def batch_of(path):
    loader = make_loader(loader_config(config_of(path)))
    batch = next(loader)
    loader.close()
    return batch


def test_nothing_hidden_reaches_a_batch(photographs, tmp_path):
    """Other hidden truths, and another distance reported by the camera: the same batches."""
    other = tmp_path / "other"
    build(FocusScenes(hidden_m=9.0, reported_m=3.0), other, counts=COUNTS, num_workers=0)
    assert not np.array_equal(
        load_hidden(other, "train")["focus_distance_m"],
        load_hidden(photographs, "train")["focus_distance_m"],
    )
    ours, theirs = batch_of(photographs), batch_of(other)
    assert set(ours) == {"image", "disparity", "photograph", "camera", "scene_id"}
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name])
    placement = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shape = Shape("photographs", 16, 16, 0, 1.0, taken=True)
    planned = abstract_batch(shape, 8, placement)
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in planned.items()} == {
        name: (value.shape, value.dtype) for name, value in ours.items()
    }


def test_what_cannot_be_trained_on_is_refused(photographs, dataset, tmp_path):
    def refused(path, **changes):
        with pytest.raises(InvalidInput) as found:
            preflight.check_dataset(config_of(path, **changes))
        return str(found.value)

    assert "kind 'layered'; allowed with task='focus': 'photographs'" in refused(dataset)
    of_six = SETTINGS["focus"] | {"patch_size": 6}
    assert "16x16 px; allowed: multiples of focus.patch_size=6" in refused(
        photographs, focus=of_six
    )
    unknown = tmp_path / "unknown"
    build(FocusScenes(f_number=None), unknown, counts={"train": 2}, num_workers=0)
    assert "focal_length_35mm_mm, f_number are [50.0, 50.0, nan], not all" in refused(unknown)


def test_latents_are_refused():
    with pytest.raises(InvalidInput, match=r"codec\.kind is 'autoencoder'; allowed: 'pixels'"):
        config_of("x", codec={"kind": "autoencoder"})
