import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bokeh_jax import simulation
from bokeh_jax.simulation import CameraConfig, disparity_at

WIDTH_PX = 20
sample_cameras = jax.jit(simulation.sample_cameras, static_argnums=2)


def draw(config: CameraConfig, count: int = 400):
    rng = np.random.default_rng(3)
    disparity = jnp.asarray(rng.uniform(size=(16, WIDTH_PX)), jnp.float32)
    keys = jax.random.split(jax.random.key(0), count)
    return disparity, jax.vmap(lambda key: sample_cameras(key, disparity, config))(keys)


def test_disparity_is_read_at_the_pixel_that_holds_the_point():
    disparity = jnp.arange(12.0).reshape(3, 4)
    points = jnp.array([[0.0, 0.0], [0.99, 0.0], [0.3, 0.5], [1.0, 1.0]])
    np.testing.assert_array_equal(disparity_at(disparity, points), [0.0, 3.0, 5.0, 11.0])


def test_focus_disparity_is_the_one_seen_at_the_focus_point():
    disparity, cameras = draw(CameraConfig(num_targets=3))
    seen = jax.vmap(lambda points: disparity_at(disparity, points))(cameras.focus_points)
    np.testing.assert_array_equal(seen, cameras.targets.focus_disparity)


def test_blur_lies_in_the_configured_range_and_fills_it():
    config = CameraConfig(
        blur_fraction_min=0.05,
        blur_fraction_max=0.1,
        all_in_focus_reference_rate=0.0,
        all_in_focus_target_rate=0.0,
    )
    _, cameras = draw(config)
    for blur_px in (cameras.reference.blur_px, cameras.targets.blur_px):
        fraction = np.asarray(blur_px) / WIDTH_PX
        assert fraction.min() >= 0.05
        assert fraction.max() <= 0.1 + 1e-6
        assert fraction.min() < 0.052
        assert fraction.max() > 0.098


def test_targets_of_a_scene_share_their_aperture_and_differ_in_focus():
    _, cameras = draw(CameraConfig(num_targets=2))
    blur_px = np.asarray(cameras.targets.blur_px)
    np.testing.assert_array_equal(blur_px[:, 0], blur_px[:, 1])
    focus = np.asarray(cameras.targets.focus_disparity)
    # Of 8 candidates the farthest is taken: the median gap of uniform disparity is far above the
    # 1/3 that one candidate would give.
    assert np.median(np.abs(focus[:, 0] - focus[:, 1])) > 0.55


def test_the_first_target_is_refocused_away_from_the_reference():
    _, cameras = draw(CameraConfig(num_targets=2))
    reference = np.asarray(cameras.reference.focus_disparity)
    focus = np.asarray(cameras.targets.focus_disparity)
    assert np.median(np.abs(focus[:, 0] - reference)) > 0.55
    # The second one goes where the first is not, and so comes near the reference's plane again.
    assert np.median(np.abs(focus[:, 1] - reference)) < 0.35


@pytest.mark.parametrize(
    ("reference_rate", "target_rate", "reference_sharp", "target_sharp"),
    [
        (0.0, 0.0, False, False),
        (1.0, 0.0, True, False),
        (0.0, 1.0, False, True),
        (1.0, 1.0, True, False),
    ],
)
def test_tasks_are_corners_of_one_distribution(
    reference_rate, target_rate, reference_sharp, target_sharp
):
    config = CameraConfig(
        all_in_focus_reference_rate=reference_rate, all_in_focus_target_rate=target_rate
    )
    _, cameras = draw(config, 50)
    assert np.all((np.asarray(cameras.reference.blur_px) == 0.0) == reference_sharp)
    assert np.all((np.asarray(cameras.targets.blur_px) == 0.0) == target_sharp)


def test_rates_are_kept():
    config = CameraConfig(all_in_focus_reference_rate=0.3, all_in_focus_target_rate=0.5)
    _, cameras = draw(config, 4000)
    sharp_reference = np.asarray(cameras.reference.blur_px) == 0.0
    sharp_targets = np.asarray(cameras.targets.blur_px)[:, 0] == 0.0
    assert abs(sharp_reference.mean() - 0.3) < 0.03
    assert abs(sharp_targets[~sharp_reference].mean() - 0.5) < 0.04


def test_a_scene_draws_the_same_cameras_in_any_batch():
    config = CameraConfig()
    disparity, cameras = draw(config, 6)
    key = jax.random.split(jax.random.key(0), 6)[4]
    alone = sample_cameras(key, disparity, config)
    jax.tree.map(
        lambda batched, single: np.testing.assert_array_equal(batched[4], single), cameras, alone
    )


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_targets": 1}, "num_targets is 1"),
        ({"blur_fraction_min": 0.0}, "blur_fraction_min=0.0"),
        ({"blur_fraction_min": 0.2, "blur_fraction_max": 0.1}, "blur_fraction_max=0.1"),
        ({"all_in_focus_target_rate": 1.5}, "all_in_focus_target_rate is 1.5"),
    ],
)
def test_unusable_distributions_are_refused(changes, named):
    with pytest.raises(ValueError, match=named):
        CameraConfig(**changes)
