from dataclasses import fields, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bokeh_jax.models.conditions import CameraTokens, Conditions, fourier_features
from bokeh_jax.models.refocus_dit import RefocusConfig

FLAGS = ("disparity_given", "reference_camera_given", "camera_given")


def draw(batch=2, height=4, width=6):
    keys = jax.random.split(jax.random.key(0), 7)

    def normal(i, *shape):
        return jax.random.normal(keys[i], shape, jnp.float32)

    ones = jnp.ones((batch,), jnp.float32)
    return Conditions(
        reference=normal(0, batch, height, width, 3),
        guess=normal(1, batch, height, width, 3),
        target_defocus=normal(2, batch, height, width),
        reference_defocus=normal(3, batch, height, width),
        disparity_given=ones,
        reference_camera_given=ones,
        focus_point=normal(4, batch, 2),
        focus_disparity=normal(5, batch),
        blur=normal(6, batch),
        camera_given=ones,
        text=normal(6, batch, 3, 5),
        pooled=normal(5, batch, 3),
    )


def assert_equal(ours, theirs):
    for field in fields(Conditions):
        name = field.name
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)


# What each flag withholds; a guess that is withheld is the reference.
WITHHELD = {
    "disparity_given": {"guess", "target_defocus", "reference_defocus", "focus_disparity"},
    "reference_camera_given": {"reference_defocus"},
    "camera_given": {"guess", "target_defocus", "focus_disparity", "focus_point", "blur"},
}


def test_everything_given_is_visible():
    conditions = draw()
    assert_equal(conditions.visible(), conditions)


@pytest.mark.parametrize("flag", FLAGS)
def test_flags_withhold_their_parts_example_by_example(flag):
    conditions = replace(draw(), **{flag: jnp.asarray([0.0, 1.0], jnp.float32)})
    visible = conditions.visible()
    for field in fields(Conditions):
        name = field.name
        before, after = getattr(conditions, name), getattr(visible, name)
        np.testing.assert_array_equal(after[1], before[1], err_msg=name)
        if name == "guess" and name in WITHHELD[flag]:
            np.testing.assert_array_equal(after[0], conditions.reference[0])
        elif name in WITHHELD[flag]:
            np.testing.assert_array_equal(after[0], np.zeros(after[0].shape), err_msg=name)
        else:
            np.testing.assert_array_equal(after[0], before[0], err_msg=name)


def test_withheld_nans_stay_out():
    bad = jax.tree.map(lambda x: x * jnp.nan, draw())
    good = draw()
    zeros = jnp.zeros((2,), jnp.float32)
    conditions = replace(
        bad,
        reference=good.reference,
        text=good.text,
        pooled=good.pooled,
        **dict.fromkeys(FLAGS, zeros),
    )
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(conditions.visible()))


def test_without_camera_leaves_reference_and_text():
    conditions = draw()
    bare = conditions.without_camera()
    for field in fields(Conditions):
        name, value = field.name, getattr(bare, field.name)
        if name in ("reference", "guess"):
            np.testing.assert_array_equal(value, conditions.reference)
        elif name in ("text", "pooled"):
            np.testing.assert_array_equal(value, getattr(conditions, name))
        else:
            np.testing.assert_array_equal(value, np.zeros(value.shape), err_msg=name)
    off = replace(conditions, **dict.fromkeys(FLAGS, jnp.zeros((2,), jnp.float32)))
    assert_equal(off.visible(), bare)


def test_without_disparity_is_what_its_flag_leaves():
    conditions = draw()
    off = replace(conditions, disparity_given=jnp.zeros((2,), jnp.float32))
    assert_equal(conditions.without_disparity(), off.visible())


def test_conditions_pass_through_transformations():
    conditions = draw()
    shapes = jax.eval_shape(lambda c: c, conditions)
    assert shapes.guess.shape == (2, 4, 6, 3)
    assert_equal(jax.jit(lambda c: c)(conditions), conditions)
    halves = jax.tree.map(lambda x: x.reshape(2, 1, *x.shape[1:]), conditions)
    assert_equal(
        jax.tree.map(lambda x: x[:, 0], jax.vmap(lambda c: c.visible())(halves)), conditions
    )
    assert jax.tree.map(lambda x: "leaf", conditions).blur == "leaf"


def test_camera_tokens():
    config = RefocusConfig(compute_dtype="float32").dit_config()
    conditions = replace(draw(), camera_given=jnp.asarray([1.0, 0.0], jnp.float32))
    conditions = replace(
        conditions, reference_camera_given=jnp.asarray([0.0, 1.0], jnp.float32)
    ).visible()
    tokens_of = CameraTokens(config)
    params = nn.unbox(jax.jit(tokens_of.init)(jax.random.key(0), conditions)["params"])
    params = {
        name: value if name == "null" else value | {"bias": value["bias"] + 0.5}
        for name, value in params.items()
    }
    tokens = np.asarray(tokens_of.apply({"params": params}, conditions))
    values = {
        "focus_point": conditions.focus_point,
        "focus_disparity": conditions.focus_disparity[:, None],
        "blur": 20.0 * conditions.blur[:, None],
    }
    for index, (name, value) in enumerate(values.items()):
        kernel = np.asarray(params[name]["kernel"])
        expected = np.asarray(fourier_features(value))[0] @ kernel + 0.5
        np.testing.assert_allclose(tokens[0, index], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(tokens[1, index], params["null"][index])
    flags = np.asarray([[1, 1, 0], [0, 1, 1]], np.float32)
    expected = flags @ np.asarray(params["flags"]["kernel"]) + 0.5
    np.testing.assert_allclose(tokens[:, 3], expected, rtol=1e-5)


def test_fourier_features_closed_form():
    values = np.asarray([[0.3, -1.25]], np.float32)
    octaves = [0.5, 1, 2, 4, 8, 16, 32, 64]
    expected = []
    for u in values[0].astype(np.float64):
        expected.append(u)
        expected += [np.cos(2 * np.pi * f * u) for f in octaves]
        expected += [np.sin(2 * np.pi * f * u) for f in octaves]
    # Angles up to 2π·64·1.25 are products of float32 numbers.
    np.testing.assert_allclose(
        fourier_features(jnp.asarray(values))[0], expected, atol=2 * 503 * 2.0**-23
    )
