"""Reference tokens that do not look at the noise, and what sampling keeps of them."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_trees import drawn

from bokeh_jax import diffusion
from bokeh_jax.errors import InvalidInput
from bokeh_jax.models import Conditions, LoraConfig, RefocusConfig, TextOnly
from bokeh_jax.models.blocks import CACHE
from bokeh_jax.models.condition_cache import condition_cache
from bokeh_jax.models.flops import refocus_forward_flops
from bokeh_jax.models.refocus_dit import RefocusDiT, apply, init_params
from bokeh_jax.objectives import ObjectiveConfig, make_predictor, predict, sample_refocused

BATCH, ROWS, COLUMNS = 2, 2, 3
SIZE = (2 * ROWS, 2 * COLUMNS)
SINGLE = RefocusConfig(
    patch_size=2,
    reference_as="tokens",
    reference_sees="itself",
    hidden_dim=24,
    num_heads=2,
    mlp_ratio=2.0,
    num_double_blocks=0,
    num_single_blocks=2,
    rope_axes_dim=(4, 4, 4),
    compute_dtype="float32",
)
BOTH = replace(
    SINGLE,
    text_dim=5,
    pooled_dim=3,
    distilled_guidance=2.5,
    num_double_blocks=2,
    lora=LoraConfig(rank=2, alpha=3.0, targets=("attention", "mlp", "modulation", "embedders")),
)
CONFIGS = {
    "single blocks": SINGLE,
    "double blocks, no guess": replace(
        SINGLE, num_double_blocks=2, num_single_blocks=0, guess_tokens=False, remat="full"
    ),
    "both, with text and adapters": BOTH,
}
TIMES = ((0.0, 1.0), (0.9, 0.3))


def draw(config: RefocusConfig):
    """Noisy images and conditions of two examples, whose flags differ."""
    generator = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(generator.normal(size=shape), jnp.float32)

    image = (BATCH, *SIZE, config.image_channels)
    ones = jnp.ones((BATCH,), jnp.float32)
    conditions = Conditions(
        reference=normal(*image),
        guess=normal(*image),
        target_defocus=0.05 * normal(*image[:3]),
        reference_defocus=0.05 * normal(*image[:3]),
        disparity_given=ones,
        reference_camera_given=jnp.asarray([1.0, 0.0], jnp.float32),
        focus_point=normal(BATCH, 2),
        focus_disparity=normal(BATCH),
        blur=0.1 * normal(BATCH),
        camera_given=ones,
        text=None if config.text_dim is None else normal(BATCH, 3, config.text_dim),
        pooled=None if config.pooled_dim is None else normal(BATCH, config.pooled_dim),
    )
    return normal(*image), conditions


@cache
def random_params(config: RefocusConfig):
    shapes = jax.eval_shape(lambda key: init_params(config, key, *SIZE), jax.random.key(0))
    return drawn(shapes, seed=1, scale=0.3)


# `make test`: single blocks without double ones, those of the configuration with both.
ALL = [
    pytest.param(name, marks=pytest.mark.long) if name == "single blocks" else name
    for name in CONFIGS
]


@pytest.fixture(scope="module", params=ALL)
def model(request):
    config = CONFIGS[request.param]
    make_cache = jax.jit(partial(condition_cache, config, random_params(config)))
    return config, random_params(config), *draw(config), make_cache


def test_a_step_with_the_cache_is_a_step_without(model):
    config, params, noisy, conditions, make_cache = model
    cache = make_cache(conditions)
    without, with_cache = jax.jit(partial(apply, config)), jax.jit(partial(apply, config))
    for time in TIMES:
        given = (params, noisy, jnp.asarray(time, jnp.float32), conditions)
        expected = np.asarray(without(*given))
        found = with_cache(*given, cache)
        assert expected.std() > 0.3
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * expected.std())

    for part in ("reference", "reference_defocus", "guess"):
        other = make_cache(replace(conditions, **{part: 0.5 * getattr(conditions, part)}))
        # The reference's defocus is withheld from the second example.
        moved = np.abs(np.asarray(with_cache(*given, other) - found))[0].max() > 1e-3
        assert moved == (part != "guess" or config.guess_tokens), part


def test_condition_tokens_know_neither_noise_nor_time(model):
    """Gradients of what every block of the whole network makes of them are exactly 0."""
    config, params, noisy, conditions, make_cache = model
    num_condition = (1 + config.guess_tokens) * ROWS * COLUMNS
    time = jnp.asarray(TIMES[1], jnp.float32)

    def of_conditions(noisy, time):
        network = RefocusDiT(config)
        _, kept = network.apply({"params": params}, noisy, time, conditions, mutable=[CACHE])
        return jax.tree.map(lambda x: x[:, :, -num_condition:], kept[CACHE]["dit"])

    @jax.jit
    def values_and_gradients(noisy, time):
        values, pullback = jax.vjp(of_conditions, noisy, time)
        return values, pullback(jax.tree.map(jnp.ones_like, values))

    values, gradients = values_and_gradients(noisy, time)
    assert all(not np.any(gradient) for gradient in gradients)
    for value, kept in zip(*map(jax.tree.leaves, (values, make_cache(conditions))), strict=True):
        np.testing.assert_allclose(kept, value, rtol=0, atol=1e-5 * np.abs(value).max())


def test_what_the_cache_holds(model):
    config, params, _, conditions, make_cache = model
    blocks = {"double_blocks": config.num_double_blocks, "single_blocks": config.num_single_blocks}
    num_condition = (1 + config.guess_tokens) * ROWS * COLUMNS
    expected = {
        name: {"attention": dict.fromkeys(("key", "value"), (n, BATCH, num_condition, 2, 12))}
        for name, n in blocks.items()
        if n
    }
    assert jax.tree.map(jnp.shape, make_cache(conditions)) == expected
    narrow = replace(config, compute_dtype="bfloat16")
    shapes = jax.eval_shape(partial(condition_cache, narrow), params, conditions)
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype("bfloat16")}


def test_both_ways_have_the_same_parameters_and_differ():
    itself = replace(SINGLE, text_dim=5, num_single_blocks=1)
    all_see = replace(itself, reference_sees="all")
    params, (noisy, conditions) = random_params(itself), draw(itself)
    shapes = jax.eval_shape(lambda key: init_params(all_see, key, *SIZE), jax.random.key(0))
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, params)
    time = jnp.asarray(TIMES[1], jnp.float32)
    ours, theirs = (
        jax.jit(partial(apply, config))(params, noisy, time, conditions)
        for config in (itself, all_see)
    )
    assert float(jnp.abs(ours - theirs).max()) > 1e-2
    # Without condition tokens there is nothing to differ in.
    alone = TextOnly(conditions.text, conditions.pooled)
    ours, theirs = (
        jax.jit(partial(apply, config))(params, noisy, time, alone) for config in (itself, all_see)
    )
    np.testing.assert_array_equal(ours, theirs)


def test_sampling_with_the_cache_is_sampling_without():
    scale, config, objective = 3.0, SINGLE, ObjectiveConfig()
    params = random_params(config)
    _, conditions = draw(config)
    keys = jax.random.split(jax.random.key(2), BATCH)
    settings = {"model": config, "objective": objective}
    found = jax.jit(
        partial(sample_refocused, **settings, num_steps=3, method="heun", guidance_scale=scale)
    )(params, conditions, keys)

    @jax.jit
    def uncached(x_t, time):
        told = predict(params, x_t, time, conditions, **settings)
        untold = predict(params, x_t, time, conditions.without_camera(), **settings)
        return untold + scale * (told - untold)

    noise = jax.vmap(lambda key: jax.random.normal(key, conditions.reference.shape[1:]))(keys)
    expected = diffusion.sample(
        uncached, noise, diffusion.time_grid(3), method="heun", prediction="sample"
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def counted_flops(function, *args) -> float:
    analysis = jax.jit(function).lower(*args).compile().cost_analysis()
    assert analysis is not None
    return analysis["flops"]


def test_operations_that_the_cache_saves():
    config = replace(
        SINGLE,
        hidden_dim=128,
        num_heads=4,
        mlp_ratio=4.0,
        rope_axes_dim=(8, 12, 12),
        num_double_blocks=1,
        num_single_blocks=1,
        scan_blocks=False,
    )
    params = random_params(config)
    image = jnp.zeros((BATCH, 24, 16, 3), jnp.float32)
    conditions = Conditions.of_reference(image)
    settings = {"model": config, "objective": ObjectiveConfig(guide=False)}
    time = jnp.ones((BATCH,), jnp.float32)
    cached = counted_flops(make_predictor(params, conditions, **settings), image, time)
    uncached = counted_flops(
        lambda x_t, time: predict(params, x_t, time, conditions, **settings), image, time
    )
    for count, is_cached in ((cached, True), (uncached, False)):
        # The compiler also counts norms, softmax, activations and the embedding of time.
        ours = BATCH * refocus_forward_flops(config, 24, 16, cached=is_cached)
        assert 0.93 * count < ours < count
    # Of three images' tokens one is left.
    assert cached < 0.37 * uncached


def test_settings_that_do_not_go_together():
    message = "reference_sees is 'itself'; allowed: 'all', as reference_as is 'channels'"
    with pytest.raises(InvalidInput, match=message):
        replace(SINGLE, reference_as="channels")
    config = replace(SINGLE, reference_sees="all")
    with pytest.raises(InvalidInput, match="reference_sees is 'all'; allowed: 'itself', for a"):
        condition_cache(config, {}, draw(config)[1])
