import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bokeh_jax import optics
from bokeh_jax.optics import Lens, Polygon, in_focus_weights, stack

# Operation by operation they would take several times as long.
focal_stack, render_defocus = (
    jax.jit(function, static_argnames=("aperture", "max_radius_px"))
    for function in (optics.focal_stack, optics.render_defocus)
)
all_in_focus = jax.jit(optics.all_in_focus, static_argnames=("window_px", "power"))


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 5.0))
def test_weights_are_the_softmax_of_sharpness(seed, softness_px):
    random = np.random.default_rng(seed)
    disparity = random.random((2, 4, 5), np.float32)
    focus, blur = random.random((2, 3), np.float32), 10 * random.random((2, 3), np.float32)
    weights = in_focus_weights(
        jnp.asarray(disparity), Lens(jnp.asarray(focus), jnp.asarray(blur)), softness_px=softness_px
    )
    radius = np.abs(
        blur[:, :, None, None] * (disparity[:, None] - focus[:, :, None, None]), dtype=np.float64
    )
    expected = np.exp(-radius / softness_px)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(weights, expected, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)


def test_a_stack_of_two_focuses_recovers_the_sharp_picture_away_from_the_edge():
    random = np.random.default_rng(0)
    image = jnp.float32(random.random((16, 32, 3)))
    disparity = jnp.broadcast_to(jnp.float32(np.arange(32) >= 16), (16, 32))
    lenses = Lens(jnp.float32([0.0, 1.0]), 4.0)
    pictures = jnp.stack(
        [render_defocus(image, disparity, Lens(f, 4.0), max_radius_px=4.0) for f in (0.0, 1.0)]
    )
    blended = stack(pictures, in_focus_weights(disparity, lenses, softness_px=0.2))
    kept = np.r_[0:10, 22:32]
    np.testing.assert_allclose(blended[:, kept], image[:, kept], atol=2e-6)


def test_blend_weights_every_channel():
    images = jnp.arange(2 * 1 * 2 * 3, dtype=jnp.float32).reshape(2, 1, 2, 3)
    weights = jnp.float32([[[0.25, 1.0]], [[0.75, 0.0]]])
    np.testing.assert_allclose(stack(images, weights), [[[4.5, 5.5, 6.5], [3, 4, 5]]])


def test_bad_values_are_named():
    disparity = jnp.zeros((2, 4, 4))
    with pytest.raises(ValueError, match="softness_px must be positive, got 0"):
        in_focus_weights(disparity, Lens(jnp.zeros((2, 3)), 1.0), softness_px=0)
    for shape in ((3,), (3, 3), (2,)):
        with pytest.raises(
            ValueError, match=r"lenses must have the disparity's batch shape \(2,\)"
        ):
            in_focus_weights(disparity, Lens(jnp.zeros(shape), 1.0))


def layered_photograph(size=48):
    """A textured picture at three depths, away from each other."""
    random = np.random.default_rng(5)
    image = jnp.float32(random.random((size, size, 3)))
    disparity = jnp.broadcast_to(jnp.float32((np.arange(size) * 3 // size) / 2), (size, size))
    return image, disparity


def test_a_focal_stack_holds_the_photographs_of_its_lenses():
    image, disparity = layered_photograph(18)
    images, maps = jnp.stack([image, image[::-1]]), jnp.stack([disparity, 1 - disparity])
    lenses = Lens(jnp.float32([[0.0, 0.5, 1.0], [0.2, 0.4, 0.8]]), 2.0)
    options = {"aperture": Polygon(5), "max_radius_px": 2.0}
    pictures = focal_stack(images, maps, lenses, **options)
    assert pictures.shape == (2, 3, 18, 18, 3)
    for b, m in np.ndindex(2, 3):
        lens = Lens(lenses.focus_disparity[b, m], 2.0)
        expected = render_defocus(images[b], maps[b], lens, **options)
        np.testing.assert_allclose(pictures[b, m], expected, atol=5e-6)
    with pytest.raises(ValueError, match=r"lenses must have the disparity's batch shape \(2,\)"):
        focal_stack(images, maps, Lens(jnp.zeros(2), 4.0), **options)


def test_the_fused_stack_is_sharper_than_every_picture_of_it():
    image, disparity = layered_photograph()
    lenses = Lens(jnp.float32([0.0, 0.5, 1.0]), 6.0)
    pictures = focal_stack(image, disparity, lenses, max_radius_px=6.0)
    fused = all_in_focus(pictures)

    def error(picture):
        return float(jnp.mean((picture - image) ** 2))

    assert error(fused) < 0.25 * min(error(picture) for picture in pictures)
    # Away from the silhouettes the sharp picture is found.
    np.testing.assert_allclose(fused[:, 20:28], image[:, 20:28], atol=0.03)
    np.testing.assert_allclose(fused[:, :6], image[:, :6], atol=0.03)
    np.testing.assert_allclose(fused[:, 42:], image[:, 42:], atol=0.03)


def test_fusion_averages_what_has_no_detail_and_ignores_the_order():
    flat = jnp.stack([jnp.full((9, 9, 3), 0.2), jnp.full((9, 9, 3), 0.6)])
    np.testing.assert_allclose(all_in_focus(flat), 0.4, atol=1e-6)
    random = jnp.float32(np.random.default_rng(1).random((2, 3, 9, 9, 3)))
    fused = all_in_focus(random)
    np.testing.assert_allclose(all_in_focus(random[:, ::-1]), fused, atol=1e-5)
    np.testing.assert_allclose(all_in_focus(random[0]), fused[0], atol=1e-6)
    # The window is symmetric: mirrored pictures fuse to the mirrored picture.
    mirrored = all_in_focus(random[..., ::-1, ::-1, :])
    np.testing.assert_allclose(mirrored[..., ::-1, ::-1, :], fused, atol=1e-5)


def test_fusion_has_finite_slopes_in_the_dark():
    slope = jax.jit(jax.grad(lambda images: jnp.sum(all_in_focus(images) ** 2)))(
        jnp.zeros((2, 6, 6, 3))
    )
    assert jnp.isfinite(slope).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window_px": 0}, "window_px must be at least 1, got 0"),
        ({"power": 0}, "power must be positive, got 0"),
    ],
)
def test_bad_fusions_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        all_in_focus(jnp.zeros((2, 4, 4, 3)), **options)
