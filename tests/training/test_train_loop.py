import contextlib
import dataclasses
import json
import shutil
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from bokeh_jax import config as config_lib
from bokeh_jax.config import resolve
from bokeh_jax.errors import InvalidInput
from bokeh_jax.training import checkpoint, sharding
from bokeh_jax.training.executables import loader_config
from bokeh_jax.training.loop import Hooks, run_steps
from bokeh_jax.training.nonfinite import Judge
from bokeh_jax.training.state import create_state
from bokeh_jax.training.step import abstract_batch, compile_step, train_step
from bokeh_jax.training.step_metrics import compute_metrics
from bokeh_jax.training.train import train
from bokeh_jax.training.writers import METRICS_FILE, read_metrics
from data_pipeline.builder import build
from data_pipeline.layered import LayeredSource
from data_pipeline.loader import LoaderConfig, make_loader, shapes


def leaves_with_names(state):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(state)}


def assert_bitwise_equal(first, second):
    first, second = leaves_with_names(first), leaves_with_names(second)
    assert first.keys() == second.keys()
    for name, leaf in first.items():
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(second[name]), err_msg=name)


def test_twelve_steps_equal_seven_and_five_bitwise(tiny, finished, tmp_path):
    workdir, whole = finished
    assert checkpoint.steps(workdir) == [7, 12]
    resumed_dir = tmp_path / "resumed"
    shutil.copytree(workdir, resumed_dir)
    shutil.rmtree(resumed_dir / "checkpoints" / "12")
    resumed = train(tiny, resumed_dir, visible=False)
    # Names every leaf: step, params, both Adam moments, their count and the schedule's, EMA.
    assert_bitwise_equal(whole, resumed.state)
    assert int(resumed.state.step) == 12
    adam = [leaf for name, leaf in leaves_with_names(resumed.state).items() if "mu" in name]
    assert adam
    assert all(np.any(np.asarray(leaf) != 0) for leaf in adam)
    # The metrics too, and every step stands once.
    one, other = read_metrics(workdir / METRICS_FILE), read_metrics(resumed_dir / METRICS_FILE)
    assert [line["step"] for line in other] == list(range(1, 13))
    assert [line["loss"] for line in one] == [line["loss"] for line in other]
    assert [line["batch_checksum"] for line in one] == [line["batch_checksum"] for line in other]


def test_every_step_saw_another_batch(finished):
    lines = read_metrics(finished.workdir / METRICS_FILE)
    assert len({line["batch_checksum"] for line in lines}) == 12


def test_restored_state_is_the_saved_one(tiny, finished):
    workdir, whole = finished
    mesh = sharding.make_mesh(tiny.mesh)
    state, position = checkpoint.restore(workdir, 12, tiny, mesh)
    assert_bitwise_equal(whole, state)
    assert position.next_step == 12


def test_a_finished_run_does_not_train_again(tiny, finished, tmp_path, capsys):
    copy = shutil.copytree(finished.workdir, tmp_path / "copy")
    again = train(tiny, copy, visible=False)
    assert_bitwise_equal(finished.state, again.state)
    assert "already at step 12" in capsys.readouterr().out


def test_another_seed_is_another_run(tiny):
    """Another start, other draws in the step and another order of scenes."""

    def of_run(config):
        state = jax.jit(lambda: create_state(config))()
        asked = loader_config(config)
        with contextlib.closing(make_loader(asked)) as loader:
            scenes = [next(loader)["scene_id"] for _ in range(3)]
        placement = sharding.batch_sharding(sharding.make_mesh(config.mesh))
        batch = abstract_batch(shapes(asked)[0], 4, placement)
        step = jax.jit(partial(train_step, config=config))
        return state.params, scenes, step.lower(state, {}, batch).as_text()

    for first, other in zip(of_run(tiny), of_run(dataclasses.replace(tiny, seed=1)), strict=True):
        assert not jax.tree.all(jax.tree.map(np.array_equal, first, other))


def test_nothing_compiles_in_the_loop_and_the_step_takes_one_shape(tiny):
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _seconds, **_: compiled.append(event) if "backend_compile" in event else None
    )
    mesh = sharding.make_mesh(tiny.mesh)
    placement = sharding.batch_sharding(mesh)
    loader = make_loader(LoaderConfig(Path(tiny.data.path), global_batch_size=4))
    batch = sharding.put_batch(next(loader), placement)
    # The program of `train`, on the mesh as there.
    with jax.set_mesh(mesh):
        places = sharding.shardings_of(sharding.placed_state(tiny, mesh))
        state = jax.jit(lambda: create_state(tiny), out_shardings=places)()
        executable = compile_step(tiny, state, {}, batch)
    counts = []

    def report(step, window):
        jax.device_get(compute_metrics(window.metrics))
        counts.append(len(compiled))

    hooks = Hooks(
        save=lambda state, step: None,
        panel=lambda state, step: None,
        report=report,
        stop_requested=lambda step: len(counts) == 6,
        judge=Judge("stop", None),
    )
    before = len(compiled)
    batches = (sharding.put_batch(batch, placement) for batch in loader)
    state, step = run_steps(
        tiny, lambda state, batch: executable(state, {}, batch), state, 0, batches, hooks
    )
    assert step == 7  # reports come one step late: the sixth while the seventh is queued
    assert int(state.step) == step
    # Only the reading of metrics, for the first report.
    assert counts[0] <= before + 1
    assert counts[1:] == [counts[0]] * 6
    smaller = {name: value[:2] for name, value in batch.items()}
    with pytest.raises(TypeError):
        executable(state, {}, smaller)


def test_the_average_follows_the_updated_parameters(finished):
    state = finished.state
    distances = [
        float(np.abs(np.asarray(a) - np.asarray(b)).max())
        for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(state.ema), strict=True)
    ]
    assert 0.0 < max(distances) < 0.05


def test_norms_and_rates_are_reported(finished):
    lines = read_metrics(finished.workdir / METRICS_FILE)
    assert all(line["gradient_norm"] > 0 for line in lines)
    assert lines[0]["learning_rate"] == 0.0
    assert max(line["learning_rate"] for line in lines) == pytest.approx(1e-3, rel=1e-5)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("data.split=test", r"data.split is 'test'; allowed: .*train"),
        ("simulation.size_px=24", r"has layered scenes of 26x26 px; allowed: 34x34 px or more"),
        ("mesh.data=3", r"mesh .* does not fit"),
        ("mesh.fsdp=0", r"mesh .*allowed: positive sizes"),
    ],
)
def test_configs_that_do_not_fit_are_refused_before_anything_is_written(
    tiny, tmp_path, override, named
):
    config = resolve(json.loads(config_lib.to_json(tiny)), [override])
    with pytest.raises(InvalidInput, match=named):
        train(config, tmp_path / "run", visible=False)
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_another_model_is_refused(tiny, finished, tmp_path):
    other = dataclasses.replace(tiny, model=dataclasses.replace(tiny.model, num_single_blocks=2))
    copy = tmp_path / "copy"
    shutil.copytree(finished.workdir, copy)
    before = (copy / "config.json").read_text()
    with pytest.raises(InvalidInput, match=r"num_single_blocks is 1 there and 2 here"):
        train(other, copy, visible=False)
    assert (copy / "config.json").read_text() == before


def test_an_empty_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(InvalidInput, match=r"holds no checkpoint"):
        checkpoint.existing_step(tmp_path)


def test_a_dataset_of_other_content_is_refused_on_resume(tiny, finished, tmp_path):
    build(
        LayeredSource(size_px=26, seed=6, max_layers=3),
        tmp_path / "data",
        counts={"train": 10},
        num_workers=0,
    )
    copy = tmp_path / "copy"
    shutil.copytree(finished.workdir, copy)
    moved = dataclasses.replace(
        tiny, data=dataclasses.replace(tiny.data, path=str(tmp_path / "data"))
    )
    longer = dataclasses.replace(moved, training=dataclasses.replace(tiny.training, num_steps=14))
    with pytest.raises(InvalidInput, match=r"fingerprint"):
        train(longer, copy, visible=False)


def test_an_unwritable_workdir_is_refused(tiny, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InvalidInput, match=r"workdir .* is not writable"):
        train(tiny, tmp_path / "file" / "run", visible=False)
