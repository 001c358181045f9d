import json

import jax
import numpy as np
import pytest

from bokeh_jax import config as config_lib
from bokeh_jax.config import resolve
from bokeh_jax.evaluation.suite import evaluate
from bokeh_jax.training.train import train
from bokeh_jax.training.writers import METRICS_FILE, read_metrics
from data_pipeline.builder import build
from data_pipeline.layered import LayeredSource


def test_the_loss_falls(tiny, tmp_path):
    """The tiny network, with ever new cameras: it answers better than with nothing at all."""
    config = resolve(
        json.loads(config_lib.to_json(tiny)),
        [
            "optimizer.peak_learning_rate=1e-2",
            "optimizer.warmup_steps=5",
            "training.num_steps=60",
            "training.checkpoint_every_steps=60",
        ],
    )
    train(config, tmp_path, visible=False)
    losses = [line["flow_loss"] for line in read_metrics(tmp_path / METRICS_FILE)]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])


@pytest.mark.long
@pytest.mark.optimised
def test_eight_scenes_are_overfitted_past_both_baselines(guided, tmp_path):
    """Refocusing of 8 scenes with ever new cameras: the network must come to know what the lens
    blur cannot, what the reference's own blur has hidden.

    `make test`: that a loss falls, above.
    """
    path = tmp_path / "eight"
    build(LayeredSource(size_px=26, seed=9, max_layers=2), path, counts={"train": 8}, num_workers=0)
    config = resolve(
        json.loads(config_lib.to_json(guided)),
        [
            f"data.path={path}",
            "model.hidden_dim=96",
            "model.num_heads=3",
            "model.rope_axes_dim=(8, 12, 12)",
            "simulation.augment.flip_rate=0.0",
            "simulation.cameras.all_in_focus_reference_rate=0.0",
            "simulation.cameras.all_in_focus_target_rate=0.0",
            "objective.depth_dropout_rate=0.0",
            "objective.reference_camera_dropout_rate=0.0",
            "objective.camera_dropout_rate=0.0",
            "objective.time.mean=2.0",
            "simulation.cameras.blur_fraction_min=0.1",
            "simulation.cameras.blur_fraction_max=0.18",
            "optimizer.peak_learning_rate=2e-3",
            "optimizer.warmup_steps=20",
            "optimizer.ema_decay=0.98",
            "training.num_steps=350",
            "training.global_batch_size=32",
            "training.log_every_steps=50",
            "training.checkpoint_every_steps=350",
            "evaluation.splits=('train',)",
            "evaluation.num_scenes=8",
            "evaluation.batch_size=8",
        ],
    )
    result = train(config, tmp_path / "run", visible=False)
    # Eight scenes are no work; optimised, three tasks would compile as long as the training takes.
    jax.config.update("jax_disable_most_optimizations", True)
    refocus = next(one for one in evaluate(config, result.state.ema) if one.task == "refocus")
    # The third baseline is where an untrained network stands: only what was learned is past it.
    gains = {
        baseline: refocus.gain("model_known_camera", baseline).mean
        for baseline in ("unchanged", "lens_blur", "lens_blur_known_camera")
    }
    assert gains["unchanged"] > 2.0, gains
    assert gains["lens_blur"] > 0.5, gains
    assert gains["lens_blur_known_camera"] > 0.1, gains
