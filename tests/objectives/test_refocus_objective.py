import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_trees import drawn

from bokeh_jax import models
from bokeh_jax.models import RefocusConfig
from bokeh_jax.objectives import (
    ObjectiveConfig,
    as_known,
    from_model_range,
    refocus_loss,
    refocus_pairs,
    to_model_range,
)
from bokeh_jax.objectives.refocus import pair_conditions
from bokeh_jax.optics import srgb_to_linear
from bokeh_jax.simulation import (
    CameraConfig,
    DepthNoiseConfig,
    SimulationConfig,
    disparity_at,
    simulate_pairs,
)
from data_pipeline.layered import LayeredSource

MODEL = RefocusConfig(
    patch_size=4,
    hidden_dim=16,
    num_heads=1,
    num_double_blocks=1,
    num_single_blocks=1,
    rope_axes_dim=(4, 6, 6),
    compute_dtype="float32",
    scan_blocks=False,
)
SIMULATION = SimulationConfig(
    size_px=16,
    cameras=CameraConfig(
        blur_fraction_min=0.08,
        blur_fraction_max=0.12,
        all_in_focus_reference_rate=0.0,
        all_in_focus_target_rate=0.0,
    ),
)
OBJECTIVE = ObjectiveConfig(
    depth_dropout_rate=0.0,
    camera_dropout_rate=0.0,
    reference_camera_dropout_rate=0.0,
    stacking_weight=2.5,
)
# The guide's lens blur is most of the program: for what is the same with and without it.
PLAIN = dataclasses.replace(OBJECTIVE, guide=False)


DAMAGE = DepthNoiseConfig(rate=1.0, scale=0.5, shift=0.3)


@pytest.fixture(scope="module")
def batch():
    source = LayeredSource(size_px=24, seed=1, max_layers=2)
    scenes = [source.scene("train", index) for index in range(3)]
    return {
        "layers": jnp.stack([jnp.asarray(scene.layers) for scene in scenes]),
        "layer_disparity": jnp.stack([jnp.asarray(scene.layer_disparity) for scene in scenes]),
        "layer_gain": jnp.stack([jnp.asarray(scene.layer_gain) for scene in scenes]),
        "scene_id": jnp.arange(3, dtype=jnp.int32),
    }


@pytest.fixture(scope="module")
def keys():
    return jax.random.split(jax.random.key(7), 3)


@pytest.fixture(scope="module")
def fresh():
    """Start values: the last layer is zero, so the network's raw output is exactly 0."""
    return jax.jit(lambda key: models.init_params(MODEL, key, 16, 16))(jax.random.key(0))


@pytest.fixture(scope="module")
def random_params(fresh):
    return jax.tree.map(jnp.add, fresh, drawn(fresh, seed=1, scale=0.2))


def loss_parts(params, batch, keys, objective=OBJECTIVE, simulation=SIMULATION):
    parts = _loss_parts(params, batch, keys, objective, simulation)
    return {name: float(value) for name, value in parts.items()}


# One executable for all calls of a setting.
@functools.partial(jax.jit, static_argnums=(3, 4))
def _loss_parts(params, batch, keys, objective, simulation):
    return refocus_loss(
        params, batch, keys, model=MODEL, simulation=simulation, objective=objective
    )[1]


@jax.jit
def photographed(batch, keys):
    return simulate_pairs(batch, keys, SIMULATION)


def test_model_range_is_srgb_in_minus_one_to_one():
    linear = jnp.array([0.0, 0.0031308, 0.2140411, 1.0])
    np.testing.assert_allclose(to_model_range(linear), [-1.0, -0.91910, 0.0, 1.0], atol=1e-4)
    values = jnp.linspace(-1.0, 1.0, 11)
    np.testing.assert_allclose(to_model_range(from_model_range(values)), values, atol=1e-5)
    np.testing.assert_allclose(from_model_range(jnp.array([-1.5, 1.5])), [0.0, 1.0], atol=1e-6)


def test_an_untrained_guided_network_answers_with_the_guess(fresh, batch, keys):
    parts = loss_parts(fresh, batch, keys)
    assert parts["sample_psnr_db"] == parts["guess_psnr_db"]
    np.testing.assert_allclose(
        parts["flow_loss"], 4.0 * 10.0 ** (-parts["guess_psnr_db"] / 10.0), rtol=1e-5
    )


def test_loss_is_flow_plus_weighted_stacking(random_params, batch, keys):
    parts = loss_parts(random_params, batch, keys)
    assert parts["stacking_loss"] > 0
    np.testing.assert_allclose(
        parts["loss"], parts["flow_loss"] + 2.5 * parts["stacking_loss"], rtol=1e-6
    )


def test_targets_of_a_scene_share_noise_and_time(fresh, batch, keys):
    """A zero velocity predicts x̂ = x_t. With equal targets the blend of their errors t (z − x) is
    the error itself only if both have the same t and z; drawn apart, about half would remain."""
    cameras = dataclasses.replace(SIMULATION.cameras, all_in_focus_target_rate=1.0)
    simulation = dataclasses.replace(SIMULATION, cameras=cameras)
    objective = dataclasses.replace(OBJECTIVE, prediction="velocity", guide=False)
    parts = loss_parts(fresh, batch, keys, objective, simulation)
    error = 4.0 * 10.0 ** (-parts["sample_psnr_db"] / 10.0)
    np.testing.assert_allclose(parts["stacking_loss"], error, rtol=1e-4)
    # Σ mean (z − x)² with standard normal z: 1 + mean x², and x lies in [-1, 1].
    assert 0.9 < parts["flow_loss"] < 2.1
    apart = dataclasses.replace(objective, target_noise="separate")
    parts = loss_parts(fresh, batch, keys, apart, simulation)
    error = 4.0 * 10.0 ** (-parts["sample_psnr_db"] / 10.0)
    # The targets' errors t (z_i − x) differ in z_i alone: w₁² + w₂² of the noise's part is left.
    assert 0.5 * 0.9 * error < parts["stacking_loss"] < 0.95 * error


def test_low_noise_weighting_takes_one_minus_t(fresh, batch, keys):
    late = dataclasses.replace(PLAIN, stacking_time="low_noise")
    uniform = loss_parts(fresh, batch, keys, PLAIN)["stacking_loss"]
    weighted = loss_parts(fresh, batch, keys, late)["stacking_loss"]
    assert 0.0 < weighted < uniform


def test_a_batch_is_the_mean_of_its_scenes(random_params, batch, keys):
    objective = dataclasses.replace(PLAIN, depth_dropout_rate=0.5, camera_dropout_rate=0.5)
    whole = loss_parts(random_params, batch, keys, objective)
    alone = [
        loss_parts(
            random_params,
            {name: value[row : row + 1] for name, value in batch.items()},
            keys[row : row + 1],
            objective,
        )
        for row in range(3)
    ]
    for name in ("loss", "flow_loss", "stacking_loss"):
        mean = np.mean([parts[name] for parts in alone])
        np.testing.assert_allclose(whole[name], mean, rtol=1e-4)


def test_dropped_depth_leaves_no_guess(fresh, batch, keys):
    """With depth always dropped the guess is the reference: its PSNR is that of doing nothing."""
    dropped = dataclasses.replace(OBJECTIVE, depth_dropout_rate=1.0)
    parts = loss_parts(fresh, batch, keys, dropped)
    streams = jax.vmap(lambda key: jax.random.fold_in(key, 0))(keys)
    pairs = photographed(batch, streams)
    reference = to_model_range(pairs.reference)[:, None]
    error = float(jnp.mean((to_model_range(pairs.targets) - reference) ** 2))
    np.testing.assert_allclose(parts["guess_psnr_db"], 10 * np.log10(4 / error), atol=1e-3)


def test_without_the_guide_nothing_is_rendered_for_the_network(fresh, batch, keys):
    parts = loss_parts(fresh, batch, keys, PLAIN)
    # x̂ = f = 0 at the start, so the flow loss is the mean square of the targets.
    streams = jax.vmap(lambda key: jax.random.fold_in(key, 0))(keys)
    pairs = photographed(batch, streams)
    np.testing.assert_allclose(
        parts["flow_loss"], float(jnp.mean(to_model_range(pairs.targets) ** 2)), rtol=1e-4
    )


def test_damaged_disparity_is_told_with_the_focus_it_has_and_the_truth_stays(batch, keys):
    pairs = photographed(batch, keys)
    known = jax.jit(lambda pairs, keys: as_known(pairs, keys, DAMAGE))(pairs, keys)
    np.testing.assert_array_equal(known.targets, pairs.targets)
    np.testing.assert_array_equal(known.weights, pairs.weights)
    assert np.abs(known.disparity - pairs.disparity).max() > 0.05
    seen = jax.vmap(disparity_at)(known.disparity, pairs.cameras.focus_points)
    np.testing.assert_array_equal(known.cameras.targets.focus_disparity, seen)
    assert as_known(pairs, keys, DepthNoiseConfig(rate=0.0)) is pairs


def test_the_loss_is_that_of_a_network_that_is_shown_damaged_disparity(fresh, batch, keys):
    damaged = dataclasses.replace(OBJECTIVE, depth_noise=DAMAGE)
    parts = loss_parts(fresh, batch, keys, damaged)

    @jax.jit
    def guess_error(batch, keys):
        stream = lambda index: jax.vmap(lambda k: jax.random.fold_in(k, index))(keys)  # noqa: E731
        pairs = simulate_pairs(batch, stream(0), SIMULATION)
        conditions = pair_conditions(
            as_known(pairs, stream(6), DAMAGE),
            disparity_given=jnp.ones(3),
            camera_given=jnp.ones(3),
            reference_camera_given=jnp.ones(3),
            objective=damaged,
            max_radius_px=SIMULATION.max_radius_px(16),
        )
        truth = to_model_range(pairs.targets).reshape(conditions.guess.shape)
        return jnp.mean((conditions.guess - truth) ** 2)

    # A fresh network's answer is the guess.
    np.testing.assert_allclose(parts["flow_loss"], guess_error(batch, keys), rtol=1e-4)
    assert parts["flow_loss"] > 1.05 * loss_parts(fresh, batch, keys)["flow_loss"]


def test_every_parameter_gets_a_gradient(random_params, batch, keys):
    def loss(params):
        return refocus_loss(
            params, batch, keys, model=MODEL, simulation=SIMULATION, objective=PLAIN
        )[0]

    gradients = jax.jit(jax.grad(loss))(random_params)
    for path, leaf in jax.tree.leaves_with_path(gradients):
        assert np.isfinite(np.asarray(leaf)).all()
        name = jax.tree_util.keystr(path)
        # The null tokens are only read where something is dropped.
        assert "null" in name or np.abs(np.asarray(leaf)).max() > 0, name


def test_samples_keep_the_order_of_scenes_and_targets(fresh, batch, keys):
    pairs = photographed(batch, keys)
    run = jax.jit(
        lambda pairs, keys: refocus_pairs(
            fresh, pairs, keys, model=MODEL, objective=OBJECTIVE, max_radius_px=2.0
        )
    )
    whole = run(pairs, keys)
    # The last scene first: a program for one scene alone would be another.
    order = np.array([2, 0, 1])
    moved = run(jax.tree.map(lambda leaf: leaf[order], pairs), keys[order])
    assert whole.shape == pairs.targets.shape
    np.testing.assert_allclose(whole[order], moved, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"depth_dropout_rate": 1.2}, "depth_dropout_rate is 1.2"),
        ({"camera_dropout_rate": -0.1}, "camera_dropout_rate is -0.1"),
        ({"stacking_weight": -1.0}, "stacking_weight is -1.0"),
        ({"source_noise": -1.0}, "source_noise is -1.0"),
    ],
)
def test_unusable_settings_are_refused(changes, named):
    with pytest.raises(ValueError, match=named):
        ObjectiveConfig(**changes)


def test_stored_pixels_are_decoded_to_linear_light(batch):
    pairs = photographed(batch, jax.random.split(jax.random.key(0), 3))
    brightest = srgb_to_linear(batch["layers"][..., :3].max().astype(jnp.float32) / 255.0)
    assert float(pairs.targets.max()) <= float(brightest) + 1e-4
