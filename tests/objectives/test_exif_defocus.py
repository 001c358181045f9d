"""Focus from photographs alone: the loss is least at the truth, and its slopes lead there."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bokeh_jax.errors import InvalidInput
from bokeh_jax.models import focus_transformer
from bokeh_jax.models.focus_transformer import FOCUS, FocusAnswer, FocusConfig, token_disparity
from bokeh_jax.objectives.exif_defocus import (
    ExifObjectiveConfig,
    answer_of,
    candidates,
    exif_defocus_loss,
    lens_errors,
    reconstruction,
    scenes_of,
    shared_out,
)
from bokeh_jax.optics import Exif, linear_to_srgb, render_defocus, srgb_to_linear

SIDE, PATCH, BLUR = 16, 4, 0.12
DEPTHS = (0.2, 0.55, 0.9)
SCALE_M = 0.15
RNG = np.random.default_rng(2)


def scenes():
    """Two scenes of three strips, and their photographs focused on the middle and the nearest."""
    image = jnp.asarray(RNG.uniform(0, 1, (2, SIDE, SIDE, 3)), jnp.float32)
    strips = np.repeat(np.array(DEPTHS, np.float32), (4, 8, 4))
    disparity = jnp.asarray(np.broadcast_to(strips, (2, SIDE, SIDE)))
    exif = Exif.from_fields(jnp.asarray([[50, 50, 1.8], [85, 127, 2.8]], jnp.float32))
    focus = jnp.asarray([0.55, 0.9])
    lens = exif.lens(focus, jnp.full(2, SCALE_M), SIDE)
    assert float(jnp.min(lens.blur_px)) > 0.8
    assert float(jnp.max(lens.blur_px)) * 0.7 < BLUR * SIDE
    taken = jax.jit(functools.partial(render_defocus, max_radius_px=BLUR * SIDE))(
        srgb_to_linear(image), disparity, lens
    )
    return image, linear_to_srgb(taken), disparity, exif, focus


IMAGE, PHOTOGRAPH, DISPARITY, EXIF, FOCUSED = scenes()
KEYS = jax.random.split(jax.random.key(5), 2)
TOKENS = token_disparity(DISPARITY, PATCH)


def answer(logits, octaves):
    """An answer with this attention, 2^octaves times the true scale."""
    attention = jax.nn.softmax(logits, axis=1)
    focus = jnp.sum(attention * TOKENS, axis=1)
    return FocusAnswer(focus, jnp.zeros(2), SCALE_M * jnp.exp2(octaves), attention, TOKENS)


def loss_of(form, logits, octaves, image=IMAGE, disparity=DISPARITY):
    objective = ExifObjectiveConfig(form=form, num_candidates=3, max_blur_fraction=BLUR)
    of, scene = answer(logits, octaves), (image, PHOTOGRAPH, disparity, EXIF)
    return reconstruction(of, *scene, KEYS, objective=objective)[0]


EVERYWHERE = jnp.zeros((2, 16))
AT_TRUTH = jnp.where(jnp.abs(TOKENS - FOCUSED[:, None]) < 0.01, 30.0, 0.0)


def test_the_error_is_nothing_at_the_truth_and_one_without_blur():
    depths = jnp.asarray([DEPTHS, DEPTHS], jnp.float32)
    found = np.asarray(ERRORS(IMAGE, PHOTOGRAPH, DISPARITY, EXIF, depths, jnp.full(2, SCALE_M)))
    np.testing.assert_array_less([found[0, 1], found[1, 2]], 1e-5)
    assert min(found[0, 0], found[0, 2], found[1, 0], found[1, 1]) > 0.1
    unblurred = ERRORS(IMAGE, PHOTOGRAPH, DISPARITY, EXIF, depths, jnp.full(2, 1e6))
    np.testing.assert_allclose(unblurred, 1.0, atol=1e-3)


# One program each for all that asks for it: compiling is what these tests cost.
ERRORS = jax.jit(functools.partial(lens_errors, max_blur_fraction=BLUR))
VALUE = jax.jit(jax.value_and_grad(functools.partial(loss_of, "likelihood"), argnums=(0, 1, 2, 3)))


def test_slopes_lead_through_the_lens_to_image_depth_focus_and_scale():
    octaves = jnp.asarray([0.3, -0.3])
    # Slightly off in scale, looking where the focus is: the depth whose slopes are drawn is known.
    logits = 0.5 * AT_TRUTH
    loss, slopes = VALUE(logits, octaves, IMAGE, DISPARITY)
    _, of_octaves, of_image, of_disparity = map(np.asarray, slopes)
    for slope in (of_octaves, of_image, of_disparity):
        assert np.isfinite(slope).all()
        assert (np.abs(slope).reshape(2, -1).max(axis=1) > 1e-5).all()
    # More attention where the focus is, and a scale nearer to the truth, explain more.
    right = np.asarray(AT_TRUTH) > 0
    attending = np.asarray(VALUE(EVERYWHERE, octaves, IMAGE, DISPARITY)[1][0])
    assert (attending[right] < 0).all()
    assert (attending[~right] > 0).all()
    assert of_octaves[0] > 0 > of_octaves[1]
    step = 1e-2
    for index in range(2):
        moved = octaves.at[index].add(step), octaves.at[index].add(-step)
        ends = [float(VALUE(logits, end, IMAGE, DISPARITY)[0]) for end in moved]
        measured = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(of_octaves[index], measured, rtol=0.05)
    assert float(VALUE(AT_TRUTH, jnp.zeros(2), IMAGE, DISPARITY)[0]) < 1e-4 < float(loss)


def test_following_the_slopes_finds_focus_and_scale():
    logits, octaves = EVERYWHERE, jnp.asarray([1.0, -1.0])
    for _ in range(60):
        _, (of_logits, of_octaves, _, _) = VALUE(logits, octaves, IMAGE, DISPARITY)
        # Steps of the same length whatever the slope, like Adam's.
        logits = logits - 0.3 * jnp.sign(of_logits)
        octaves = octaves - 0.05 * jnp.sign(of_octaves)
    np.testing.assert_allclose(answer(logits, octaves).focus_disparity, FOCUSED, atol=0.02)
    np.testing.assert_allclose(octaves, 0.0, atol=0.15)


def test_forms_are_a_mixture_an_expectation_and_the_error_at_the_mean():
    octaves, logits = jnp.asarray([0.3, -0.3]), 0.1 * AT_TRUTH
    of, chosen = answer(logits, octaves), candidates(TOKENS, 3)
    scene = IMAGE, PHOTOGRAPH, DISPARITY, EXIF
    errors = np.asarray(ERRORS(*scene, chosen, of.scale_m))
    at_mean = ERRORS(*scene, jnp.repeat(of.focus_disparity[:, None], 3, axis=1), of.scale_m)
    shares = np.asarray(shared_out(of.attention, TOKENS, chosen))
    expected = (shares * errors).sum(axis=1).mean()
    likelihood = -0.1 * np.log((shares * np.exp(-errors / 0.1)).sum(axis=1)).mean()
    found = VALUE(logits, octaves, IMAGE, DISPARITY)[0]
    np.testing.assert_allclose(found, likelihood, rtol=1e-4)
    others = jax.jit(lambda: [loss_of(form, logits, octaves) for form in ("expected", "mean")])()
    np.testing.assert_allclose(others, [expected, np.mean(at_mean)], rtol=1e-4)


def test_a_likelihood_is_least_at_the_true_shares():
    # Of ten photographs of one scene seven are focused near: with e = 0 or 1 the answer is 70 %.
    errors = jnp.asarray([[0.0, 1.0]] * 3 + [[1.0, 0.0]] * 7)
    share = jnp.linspace(0.01, 0.99, 99)
    shares = jnp.stack((1 - share, share), axis=-1)[:, None]
    total = -jnp.mean(jax.nn.logsumexp(jnp.log(shares) - errors[None] / 0.1, axis=2), axis=1)
    np.testing.assert_allclose(share[jnp.argmin(total)], 0.7, atol=0.011)


def test_attention_is_shared_out_without_moving_its_mean():
    depths = jnp.asarray(RNG.uniform(0, 1, (4, 30)), jnp.float32)
    attention = jax.nn.softmax(jnp.asarray(RNG.standard_normal((4, 30)), jnp.float32), axis=1)
    chosen = candidates(depths, 5)
    shares = np.asarray(shared_out(attention, depths, chosen))
    assert (shares >= 0).all()
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, rtol=1e-5)
    wanted = (attention * depths).sum(axis=1)
    np.testing.assert_allclose((shares * np.asarray(chosen)).sum(axis=1), wanted, rtol=1e-5)


def test_every_surface_is_near_a_candidate():
    # One token in forty on a surface of its own.
    depths = np.full((1, 40), 0.3, np.float32)
    depths[0, 17], depths[0, 20:], depths[0, 0] = 0.62, 0.9, 0.05
    np.testing.assert_allclose(candidates(jnp.asarray(depths), 4), [[0.05, 0.3, 0.62, 0.9]])
    # More candidates than depths: some twice, and no share is lost.
    chosen = candidates(jnp.asarray(depths), 7)
    shares = shared_out(jnp.full((1, 40), 1 / 40), jnp.asarray(depths), chosen)
    np.testing.assert_allclose(jnp.sum(shares), 1.0, rtol=1e-5)


def batch_of():
    def levels(x):
        return np.asarray(jnp.clip(jnp.round(255 * x), 0, 255), np.uint8)

    return {
        "image": levels(IMAGE),
        "photograph": levels(PHOTOGRAPH),
        "disparity": np.asarray(jnp.round(65535 * DISPARITY), np.uint16),
        "camera": np.asarray([[50, 50, 1.8], [85, 127, 2.8]], np.float32),
    }


def test_a_mirrored_batch_is_the_same_to_an_objective_that_mirrors():
    model = FocusConfig(
        sees="photograph", hidden_dim=16, num_heads=2, num_blocks=1, rope_axes_dim=(4, 2, 2)
    )
    fresh = focus_transformer.init_params(model, jax.random.key(0))
    params = {FOCUS: jax.tree.map(lambda leaf: leaf + 0.1, fresh)}
    batch = batch_of()
    mirrored = {
        name: value[:, :, ::-1] if value.ndim > 2 else value for name, value in batch.items()
    }

    @functools.cache
    def loss_at(flip_rate):
        objective = ExifObjectiveConfig(form="mean", max_blur_fraction=BLUR, flip_rate=flip_rate)
        return jax.jit(functools.partial(exif_defocus_loss, model=model, objective=objective))

    def parts(batch, flip_rate):
        return loss_at(flip_rate)(params, batch, KEYS)[1]

    ours, theirs, other = parts(batch, 0.0), parts(mirrored, 1.0), parts(mirrored, 0.0)
    for name, value in ours.items():
        np.testing.assert_allclose(theirs[name], value, rtol=1e-5, atol=1e-6)
    assert abs(float(other["loss"] - ours["loss"])) > 1e-5


def test_scenes_are_decoded_to_unit_values():
    batch = {name: jnp.asarray(value) for name, value in batch_of().items()}
    image, photograph, disparity, exif = scenes_of(batch)
    np.testing.assert_allclose(image, IMAGE, atol=0.003)
    np.testing.assert_allclose(photograph, jnp.clip(PHOTOGRAPH, 0, 1), atol=0.003)
    np.testing.assert_allclose(disparity, DISPARITY, atol=1e-5)
    np.testing.assert_allclose(exif.focal_length_m, [0.05, 0.085], rtol=1e-6)


@pytest.mark.parametrize("sees", ["scene", "photograph"])
def test_the_network_is_shown_what_the_file_says(sees):
    model = FocusConfig(
        sees=sees, hidden_dim=16, num_heads=2, num_blocks=1, rope_axes_dim=(4, 2, 2)
    )
    fresh = focus_transformer.init_params(model, jax.random.key(0))
    params = {FOCUS: jax.tree.map(lambda leaf: leaf + 0.1, fresh)}
    scenes = scenes_of({name: jnp.asarray(value) for name, value in batch_of().items()})
    levels = batch_of()["image" if sees == "scene" else "photograph"]
    shown = jnp.asarray(levels / np.float32(127.5) - np.float32(1.0))
    expected = focus_transformer.apply(model, params[FOCUS], shown, *scenes[2:])
    found = answer_of(params, *scenes, model=model)
    np.testing.assert_allclose(found.scale_m, expected.scale_m, rtol=1e-5)
    np.testing.assert_allclose(found.attention, expected.attention, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_candidates": 1}, "num_candidates is 1; allowed: 2 or more"),
        ({"temperature": 0.0}, "temperature is 0.0; allowed: above 0, up to 10"),
        ({"max_blur_fraction": 0.6}, "max_blur_fraction is 0.6; allowed: 0.005 to 0.5"),
        ({"flip_rate": 2.0}, "flip_rate is 2.0; allowed: 0 to 1"),
    ],
)
def test_bad_settings_are_refused(changes, said):
    with pytest.raises(InvalidInput) as found:
        ExifObjectiveConfig(**changes)
    assert str(found.value) == said
