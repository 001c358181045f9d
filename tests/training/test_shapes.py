"""A dataset of several kinds and shapes: one executable each, one loop."""

import dataclasses
import json
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from bokeh_jax import config as config_lib
from bokeh_jax.config import resolve
from bokeh_jax.errors import InvalidInput
from bokeh_jax.evaluation.metrics import psnr_db
from bokeh_jax.evaluation.suite import SHOWN, _load_groups, _score
from bokeh_jax.training import sharding
from bokeh_jax.training.accounting import Machine, Meter
from bokeh_jax.training.executables import loader_config
from bokeh_jax.training.nonfinite import LostSteps
from bokeh_jax.training.reporting import Reporter, Window
from bokeh_jax.training.step import abstract_batch, by_shape, compile_step
from bokeh_jax.training.step_metrics import step_metrics
from bokeh_jax.training.train import train
from bokeh_jax.training.writers import METRICS_FILE, open_writer, read_metrics
from data_pipeline.builder import build
from data_pipeline.layered import LayeredSource
from data_pipeline.loader import LoaderConfig, make_loader, shapes
from data_pipeline.mixture import MixtureSource, Part
from data_pipeline.source import PhotoScene

STEPS = 6


@dataclasses.dataclass(frozen=True)
class WidePhotos:
    """Noise before a step in depth, wider than high."""

    name: str = "photos"

    def recipe(self):
        return {"source": "wide noise"}

    def num_scenes(self, split):
        return {"train": 8, "eval_heldout": 8}.get(split, 0)

    def scene(self, split, index):
        random = np.random.default_rng([index, len(split)])
        disparity = np.where(np.arange(32) < 12, 0.8, 0.2).astype(np.float32)
        return PhotoScene(
            image=random.integers(0, 256, (20, 32, 3), np.uint8),
            disparity=np.broadcast_to(disparity, (20, 32)).copy(),
        )


@pytest.fixture(scope="module")
def mixed(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("mixed") / "data"
    layered = LayeredSource(size_px=26, seed=5, max_layers=2)
    counts = {"train": 8, "eval_heldout": 8}
    build(MixtureSource((Part(layered, counts), Part(WidePhotos()))), path, num_workers=0)
    overrides = [
        f"data.path={path}",
        "simulation.frame_multiple_px=4",
        "data.source_weights=('layered=1', 'photos=2')",
        f"training.num_steps={STEPS}",
        f"training.checkpoint_every_steps={STEPS}",
        "evaluation.num_scenes=16",
    ]
    return resolve(json.loads(config_lib.to_json(tiny)), overrides)


def test_every_shape_is_compiled_once_listed_and_trained_on(mixed, tmp_path, capsys):
    result = train(mixed, tmp_path / "run")
    out = capsys.readouterr().out
    said = [line for line in out.splitlines() if "step compiled" in line]
    assert len(said) == 2
    assert "layered, stored 26x26 px, working frame 16x16 px, 33.3 % of batches" in said[0]
    assert "photographs, stored 20x32 px, working frame 12x20 px, 66.7 % of batches" in said[1]
    assert int(result.state.step) == STEPS
    assert re.search(r"data: the next batch is of .*: \w+ epoch 0, scene 0 of 8\n", out)
    lines = read_metrics(tmp_path / "run" / METRICS_FILE)
    assert all(np.isfinite(line["loss"]) for line in lines)
    assert all(line["replaced_rows"] == 0 for line in lines)


def test_both_kinds_are_evaluated_by_their_shares(mixed):
    groups = _load_groups(mixed, "eval_heldout")
    assert [sorted(scenes) for scenes in groups] == [
        ["layer_disparity", "layer_gain", "layers", "scene_id"],
        ["disparity", "image", "scene_id"],
    ]
    assert [len(scenes["scene_id"]) for scenes in groups] == [8, 8]
    fewer = dataclasses.replace(mixed.evaluation, num_scenes=8)
    groups = _load_groups(dataclasses.replace(mixed, evaluation=fewer), "eval_heldout")
    assert [len(scenes["scene_id"]) for scenes in groups] == [4, 4]


def test_scores_of_all_shapes_stand_in_one_result():
    random = np.random.default_rng(0)
    groups = [
        {name: random.random((count, 2, *frame, 3)) for name in SHOWN}
        | {"weights": np.full((count, 2, *frame), 0.5)}
        | {name: random.random(count) for name in ("blur", "focus_change")}
        for count, frame in ((3, (8, 8)), (5, (6, 12)))
    ]
    result = _score("train", "refocus", "clean", groups)
    first, second = (psnr_db(g["model"][:, 0], g["truth"][:, 0]) for g in groups)
    np.testing.assert_array_equal(result.psnr_db["model"], np.concatenate([first, second]))
    blends = (psnr_db(g["model"].mean(axis=1), g["truth"].mean(axis=1)) for g in groups)
    np.testing.assert_allclose(result.stacked_psnr_db["model"], np.concatenate([*blends]))
    np.testing.assert_array_equal(
        result.asked["blur"], np.concatenate([group["blur"] for group in groups])
    )
    assert result.pictures.shape == (3, len(SHOWN), 8, 8, 3)


def test_the_loader_is_told_what_the_config_says(mixed):
    overrides = ["data.on_bad_record=skip", "data.num_workers=2", "seed=3"]
    config = loader_config(resolve(json.loads(config_lib.to_json(mixed)), overrides))
    assert config.weights == {"layered": 1.0, "photos": 2.0}
    assert (config.on_bad_record, config.num_workers, config.seed) == ("skip", 2, 3)
    unweighted = loader_config(
        resolve(json.loads(config_lib.to_json(mixed)), ["data.source_weights=()"])
    )
    assert unweighted.weights is None, "the dataset's own"


def test_rows_that_had_to_be_replaced_are_reported(tmp_path):
    parts = ("loss", "flow_loss", "stacking_loss", "sample_psnr_db", "guess_psnr_db")
    names = (*parts, "gradient_norm", "parameter_norm", "learning_rate", "batch_checksum")
    values = dict.fromkeys(names, jnp.float32(1))
    lost = LostSteps.of_step(jnp.bool(True), jnp.int32(1), values, jnp.arange(4))
    metrics = step_metrics(parts).single_from_model_output(**values, lost_steps=lost)
    writer = open_writer(tmp_path, 0)
    reporter = Reporter(writer, None, Meter(), 4, 8, Machine(1), replaced_rows=lambda: 3)
    reporter.report(1, Window().with_step(metrics).closed())
    writer.close()
    (line,) = read_metrics(tmp_path / METRICS_FILE)
    assert line["replaced_rows"] == 3


def test_a_batch_of_another_shape_is_refused(mixed):
    mesh = sharding.make_mesh(mixed.mesh)
    placement = sharding.batch_sharding(mesh)
    loader = LoaderConfig(path=Path(mixed.data.path), global_batch_size=4)
    wide = next(shape for shape in shapes(loader) if shape.kind == "photographs")
    batch = abstract_batch(wide, 4, placement)
    state = sharding.placed_state(mixed, mesh)
    step = by_shape([(batch, compile_step(mixed, state, {}, batch))], {})
    batches = make_loader(loader)
    for _ in range(4):
        found = sharding.put_batch(next(batches), placement)
        if "image" in found:
            assert {name: (v.shape, v.dtype) for name, v in found.items()} == {
                name: (v.shape, v.dtype) for name, v in batch.items()
            }
        else:
            with pytest.raises(ValueError, match=r"layers.*allowed: those that were compiled"):
                step(state, found)
    batches.close()


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("data.source_weights=('photos',)", r"'photos'; allowed: NAME=NUMBER"),
        ("data.source_weights=('photos=-1',)", r"'photos=-1'; allowed: NAME=NUMBER"),
        ("data.source_weights=('paintings=1',)", r"paintings"),
        ("simulation.frame_multiple_px=2", r"frame_multiple_px is 2; allowed: multiples of .*=4"),
    ],
)
def test_weights_and_frames_that_do_not_fit_are_refused(mixed, tmp_path, override, named):
    config = resolve(json.loads(config_lib.to_json(mixed)), [override])
    with pytest.raises(InvalidInput, match=named):
        train(config, tmp_path / "run", visible=False)
