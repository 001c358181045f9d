from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from random_trees import drawn

from bokeh_jax.errors import InvalidInput
from bokeh_jax.models.conditions import DEFOCUS_SCALE, CameraTokens, Conditions, TextOnly
from bokeh_jax.models.dit import DiT
from bokeh_jax.models.patches import patchify, unpatchify
from bokeh_jax.models.refocus_dit import RefocusConfig, apply, image_tokens, init_params
from bokeh_jax.models.rope import grid_ids

CONFIG = RefocusConfig(
    patch_size=2,
    hidden_dim=24,
    num_heads=2,
    mlp_ratio=2.0,
    num_double_blocks=1,
    num_single_blocks=1,
    rope_axes_dim=(4, 4, 4),
    compute_dtype="float32",
)
CONFIGS = {
    "channels": CONFIG,
    "tokens": replace(CONFIG, reference_as="tokens"),
    "tokens, no guess": replace(CONFIG, reference_as="tokens", guess_tokens=False),
}
FLAGS = ("disparity_given", "reference_camera_given", "camera_given")
PARTS = (
    "reference",
    "guess",
    "target_defocus",
    "reference_defocus",
    "focus_point",
    "focus_disparity",
    "blur",
)
WITHHELD = {
    "disparity_given": {"guess", "target_defocus", "reference_defocus", "focus_disparity"},
    "reference_camera_given": {"reference_defocus"},
    "camera_given": {"guess", "target_defocus", "focus_disparity", "focus_point", "blur"},
}


def draw(height=4, width=6, batch=2, text_dim=None):
    keys = jax.random.split(jax.random.key(0), 10)

    def normal(i, *shape):
        return jax.random.normal(keys[i], shape, jnp.float32)

    ones = jnp.ones((batch,), jnp.float32)
    conditions = Conditions(
        reference=normal(0, batch, height, width, 3),
        guess=normal(1, batch, height, width, 3),
        target_defocus=0.05 * normal(2, batch, height, width),
        reference_defocus=0.05 * normal(3, batch, height, width),
        disparity_given=ones,
        reference_camera_given=ones,
        focus_point=jax.random.uniform(keys[4], (batch, 2), jnp.float32),
        focus_disparity=jax.random.uniform(keys[5], (batch,), jnp.float32),
        blur=0.1 * jax.random.uniform(keys[6], (batch,), jnp.float32),
        camera_given=ones,
        text=None if text_dim is None else normal(7, batch, 3, text_dim),
    )
    noisy = normal(8, batch, height, width, 3)
    return noisy, jax.random.uniform(keys[9], (batch,), jnp.float32), conditions


@cache
def random_params(config):
    shapes = jax.eval_shape(lambda key: init_params(config, key, 2, 2), jax.random.key(0))
    return drawn(shapes, seed=1, scale=0.3)


@pytest.fixture(scope="module", params=list(CONFIGS))
def model(request):
    config = CONFIGS[request.param]
    params = random_params(config)

    @jax.jit
    def sensitivity(conditions):
        """Largest gradient of a loss with respect to each part, example by example."""
        noisy, time, _ = draw()

        def loss(conditions, noisy):
            return jnp.sum(jnp.sin(apply(config, params, noisy, time, conditions)))

        gradient, noisy_gradient = jax.grad(loss, argnums=(0, 1))(conditions, noisy)
        parts = {name: getattr(gradient, name) for name in PARTS} | {"noisy": noisy_gradient}
        return {
            name: jnp.max(jnp.abs(value).reshape(value.shape[0], -1), axis=1)
            for name, value in parts.items()
        }

    run = jax.jit(partial(apply, config, params))
    return config, run, sensitivity


def test_every_part_that_is_given_moves_the_output(model):
    config, _, sensitivity = model
    unused = {"guess"} if config.reference_as == "tokens" and not config.guess_tokens else set()
    for name, value in sensitivity(draw()[2]).items():
        assert np.all((np.asarray(value) > 1e-3) != (name in unused)), name


@pytest.mark.parametrize("flag", FLAGS)
def test_withheld_parts_have_exactly_no_influence(model, flag):
    config, _, sensitivity = model
    conditions = replace(draw()[2], **{flag: jnp.asarray([0.0, 1.0], jnp.float32)})
    unused = {"guess"} if config.reference_as == "tokens" and not config.guess_tokens else set()
    for name, value in sensitivity(conditions).items():
        if name in WITHHELD[flag]:
            assert value[0] == 0.0, name
        elif name not in unused:
            assert value[0] > 1e-3, name
        assert (value[1] > 1e-3) != (name in unused), name


@pytest.mark.parametrize("flag", FLAGS)
def test_flags_themselves_move_the_output(model, flag):
    """With all values zero, what tells 'given and zero' from 'not given' is the flag alone."""
    _, run, _ = model
    noisy, time, conditions = draw()
    zeros = jax.tree.map(jnp.zeros_like, conditions)
    ones = jnp.ones((2,), jnp.float32)
    given = replace(zeros, **dict.fromkeys(FLAGS, ones))
    withheld = replace(given, **{flag: 0.0 * ones})
    difference = run(noisy, time, given) - run(noisy, time, withheld)
    assert float(jnp.abs(difference).max()) > 1e-3


def test_examples_do_not_mix(model):
    _, run, _ = model
    noisy, time, conditions = draw()
    swapped = jax.tree.map(lambda x: x[::-1], (noisy, time, conditions))
    np.testing.assert_allclose(
        run(*swapped)[::-1], run(noisy, time, conditions), rtol=1e-5, atol=1e-5
    )


def test_patches_go_back_where_they_came_from():
    """With all gates at 0, as at the start, an output pixel depends on its own patch alone."""

    def gates_at_0(path, leaf):
        return jnp.zeros_like(leaf) if "mod" in jax.tree_util.keystr(path) else leaf

    for name in ("channels", "tokens"):
        config = CONFIGS[name]
        params = jax.tree.map_with_path(gates_at_0, random_params(config))
        noisy, time, conditions = draw()

        def total(noisy, row, column, config=config, params=params, rest=(time, conditions)):
            return jnp.sum(jnp.sin(apply(config, params, noisy, *rest)[0, row, column]))

        gradient = jax.jit(jax.grad(total), static_argnums=(1, 2))(noisy, 3, 2)
        touched = np.abs(np.asarray(gradient)).sum(axis=-1) > 0
        expected = np.zeros((2, 4, 6), bool)
        expected[0, 2:4, 2:4] = True
        np.testing.assert_array_equal(touched, expected)


@pytest.mark.parametrize(("name", "num_streams"), [("channels", 1), ("tokens", 3)])
def test_positions_of_the_tokens(name, num_streams):
    noisy, _, conditions = draw(4, 6)
    tokens, ids, _ = image_tokens(CONFIGS[name], noisy, conditions)
    expected = np.stack(np.meshgrid(range(num_streams), range(2), range(3), indexing="ij"), -1)
    np.testing.assert_array_equal(ids[1], expected.reshape(-1, 3))
    assert tokens.shape[1] == 6 * num_streams
    np.testing.assert_array_equal(tokens[:, :6, :12], patchify(noisy, 2))


def test_reference_and_guess_are_told_apart():
    config, params = CONFIGS["tokens"], random_params(CONFIGS["tokens"])
    noisy, time, conditions = draw()
    conditions = replace(conditions, reference_defocus=conditions.target_defocus)
    swapped = replace(conditions, reference=conditions.guess, guess=conditions.reference)
    run = jax.jit(lambda c: apply(config, params, noisy, time, c))
    assert float(jnp.abs(run(conditions) - run(swapped)).max()) > 1e-2


def test_channels_of_a_token():
    """What the input layer sees: its kernel's rows, one channel of the image at a time."""
    config = replace(CONFIG, patch_size=1)
    params = jax.tree.map(jnp.zeros_like, random_params(config))
    run = jax.jit(partial(apply, config))
    final = params["dit"]["final_layer"]
    hidden = jax.random.normal(jax.random.key(1), (24, 3), jnp.float32)
    final["linear"]["kernel"] = hidden
    noisy, time, conditions = draw(1, 1)
    flat = [noisy, conditions.reference, conditions.guess]
    flat += [DEFOCUS_SCALE * x[..., None] for x in (conditions.target_defocus,)]
    flat += [DEFOCUS_SCALE * x[..., None] for x in (conditions.reference_defocus,)]
    flat += [jnp.ones((2, 1, 1, 2), jnp.float32)]
    channels = np.concatenate([np.asarray(x) for x in flat], axis=-1)[:, 0, 0]
    row, bias = np.random.default_rng(0).normal(size=(2, 1, 24)).astype(np.float32)
    # Beside a constant, the last norm leaves the size of the channel to be seen.
    params["dit"]["img_in"]["bias"] = jnp.asarray(bias[0])
    for channel in range(13):
        kernel = np.zeros((13, 24), np.float32)
        kernel[channel] = row
        params["dit"]["img_in"]["kernel"] = jnp.asarray(kernel)
        out = run(params, noisy, time, conditions)[:, 0, 0]
        wide = channels[:, channel : channel + 1].astype(np.float64) * row + bias
        normed = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-6)
        np.testing.assert_allclose(out, normed @ np.asarray(hidden), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("patch", "rows", "columns", "channels"),
    [(1, 1, 4, 3), (2, 3, 2, 5), (3, 4, 1, 1), (4, 2, 3, 2)],
)
def test_patchify(patch, rows, columns, channels):
    shape = (2, rows * patch, columns * patch, channels)
    image = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    tokens = np.asarray(patchify(jnp.asarray(image), patch))
    assert tokens.shape == (2, rows * columns, channels * patch * patch)
    for row in range(rows):
        for column in range(columns):
            place = (slice(row * patch, (row + 1) * patch),)
            place += (slice(column * patch, (column + 1) * patch),)
            expected = np.moveaxis(image[1][place], -1, 0).ravel()
            np.testing.assert_array_equal(tokens[1, row * columns + column], expected)
    back = unpatchify(jnp.asarray(tokens), patch, rows * patch, columns * patch)
    np.testing.assert_array_equal(back, image)


@pytest.mark.parametrize("size", [(2, 10), (8, 2), (6, 6)])
@pytest.mark.parametrize("name", ["channels", "tokens"])
def test_any_aspect_ratio(name, size):
    config, params = CONFIGS[name], random_params(CONFIGS[name])
    noisy, time, conditions = draw(*size)
    out = jax.eval_shape(lambda: apply(config, params, noisy, time, conditions))
    assert out.shape == (2, *size, 3)


@pytest.mark.parametrize("size", [(5, 6), (4, 7), (0, 4)])
def test_sizes_that_do_not_fit_are_named(size):
    noisy, time, conditions = draw(*size)
    message = f"image size is {size[0]} x {size[1]} px; allowed: positive multiples of patch_size 2"
    with pytest.raises(InvalidInput, match=message):
        apply(CONFIG, random_params(CONFIG), noisy, time, conditions)
    with pytest.raises(InvalidInput, match=message):
        patchify(noisy, 2)


def test_text_joins_the_context():
    config = replace(CONFIG, text_dim=5)
    params = random_params(config)
    noisy, time, conditions = draw(text_dim=5)

    def loss(text):
        return jnp.sum(jnp.sin(apply(config, params, noisy, time, replace(conditions, text=text))))

    gradient = jax.jit(jax.grad(loss))(conditions.text)
    assert np.all(np.abs(np.asarray(gradient)).max(axis=2) > 1e-4)


@pytest.mark.parametrize(
    ("text_dim", "given_dim", "message"),
    [
        (None, 5, r"text has shape \(2, 3, 5\); allowed: None, as text_dim is None"),
        (5, 4, "text has 4 features; allowed: 5, as text_dim is 5"),
    ],
)
def test_text_that_does_not_fit_is_named(text_dim, given_dim, message):
    config = replace(CONFIG, text_dim=text_dim)
    with pytest.raises(InvalidInput, match=message):
        apply(config, random_params(config), *draw(text_dim=given_dim))


def test_no_text_is_a_prompt_without_tokens():
    config = replace(CONFIG, text_dim=5, pooled_dim=3)
    params = random_params(config)
    noisy, time, conditions = draw()
    empty = replace(
        conditions, text=jnp.zeros((2, 0, 5), jnp.float32), pooled=jnp.zeros((2, 3), jnp.float32)
    )
    run = jax.jit(partial(apply, config))
    np.testing.assert_array_equal(
        run(params, noisy, time, conditions), run(params, noisy, time, empty)
    )


def test_start_values_are_a_plain_float32_tree_of_any_size():
    config = replace(CONFIG, compute_dtype="bfloat16")
    small = jax.jit(lambda key: init_params(config, key, 2, 2))(jax.random.key(5))
    large = jax.jit(lambda key: init_params(config, key, 4, 6))(jax.random.key(5))
    assert type(small) is dict
    assert set(small) == {"camera", "dit"}
    for (path, ours), theirs in zip(
        jax.tree_util.tree_leaves_with_path(small), jax.tree.leaves(large), strict=True
    ):
        assert ours.dtype == jnp.float32
        np.testing.assert_array_equal(ours, theirs, err_msg=jax.tree_util.keystr(path))
    noisy, time, conditions = draw()
    out = jax.jit(partial(apply, config))(small, noisy, time, conditions)
    assert out.dtype == jnp.float32
    np.testing.assert_array_equal(out, np.zeros((2, 4, 6, 3)))


def test_camera_tokens_start_as_stated():
    wide = replace(CONFIG, hidden_dim=768, num_heads=64).dit_config()
    visible = draw()[2].visible()
    camera = nn.unbox(jax.jit(CameraTokens(wide).init)(jax.random.key(0), visible)["params"])
    null = np.asarray(camera["null"])
    assert null.shape == (3, 768)
    assert null.std() == pytest.approx(0.02, rel=6 / np.sqrt(2 * null.size))
    features = {"focus_point": 34, "focus_disparity": 17, "blur": 17, "flags": 3}
    assert {name: camera[name]["kernel"].shape for name in features} == {
        name: (count, 768) for name, count in features.items()
    }


LATENTS = replace(
    CONFIGS["tokens"], image_channels=5, text_dim=7, pooled_dim=3, distilled_guidance=2.5
)


def test_text_alone_is_the_transformer_alone():
    """No token, and nothing added to one, that an imported network does not know."""
    params = random_params(LATENTS)
    keys = jax.random.split(jax.random.key(9), 3)
    noisy = jax.random.normal(keys[0], (2, 4, 6, 5), jnp.float32)
    text = jax.random.normal(keys[1], (2, 4, 7), jnp.float32)
    pooled = jax.random.normal(keys[2], (2, 3), jnp.float32)
    time = jnp.asarray([0.2, 0.9], jnp.float32)
    out = jax.jit(partial(apply, LATENTS))(params, noisy, time, TextOnly(text, pooled))
    expected = jax.jit(DiT(LATENTS.dit_config()).apply)(
        {"params": params["dit"]},
        patchify(noisy, 2),
        grid_ids(0, 2, 3, 2),
        text,
        jnp.zeros((2, 4, 3), jnp.int32),
        time,
        pooled=pooled,
        guidance=jnp.full((2,), 2.5, jnp.float32),
    )
    np.testing.assert_allclose(out, unpatchify(expected, 2, 4, 6), atol=1e-5)


def test_defocus_starts_without_weight_where_weights_may_be_imported():
    config = CONFIGS["tokens"]
    params = jax.jit(lambda key: init_params(config, key, 4, 4))(jax.random.key(0))
    assert params["dit"]["img_in"]["kernel"].shape == (12, 24)
    assert params["defocus_in"]["kernel"].shape == (8, 24)
    assert not np.any(params["defocus_in"]["kernel"])


def test_channels_cannot_do_with_text_alone():
    noisy, time, _ = draw()
    with pytest.raises(InvalidInput, match="text alone; allowed: with reference_as='tokens'"):
        apply(CONFIG, random_params(CONFIG), noisy, time, TextOnly())
