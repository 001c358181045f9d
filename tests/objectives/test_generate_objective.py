"""The objective of the text-to-image generator, against its equations."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bokeh_jax import models
from bokeh_jax.diffusion import TimeSampling, sample_time
from bokeh_jax.errors import InvalidInput
from bokeh_jax.models import RefocusConfig, byte_text
from bokeh_jax.models.byte_text import ByteTextConfig, prompt_bytes
from bokeh_jax.objectives.generate import (
    GenerationConfig,
    all_in_focus,
    generate_loss,
    sample_images,
    told,
)
from bokeh_jax.simulation import AugmentConfig, CameraConfig, SimulationConfig

TEXT = ByteTextConfig(
    max_bytes=8, hidden_dim=8, num_heads=2, num_blocks=0, num_tokens=2, compute_dtype="float32"
)
MODEL = RefocusConfig(
    patch_size=4,
    reference_as="tokens",
    text_dim=8,
    pooled_dim=8,
    hidden_dim=16,
    num_heads=1,
    num_double_blocks=1,
    num_single_blocks=0,
    rope_axes_dim=(4, 6, 6),
    compute_dtype="float32",
    scan_blocks=False,
)
SIMULATION = SimulationConfig(
    size_px=8,
    augment=AugmentConfig(flip_rate=0.0),
    cameras=CameraConfig(blur_fraction_min=0.01, blur_fraction_max=0.02),
)
KEYS = jax.random.split(jax.random.key(1), 2)


@pytest.fixture(scope="module")
def params():
    tree = models.init_params(MODEL, jax.random.key(0), 4, 4, False)
    tree["text"] = byte_text.init_params(TEXT, jax.random.key(1))
    draw = np.random.default_rng(0)
    # The last layer starts at 0, and nothing before it would show.
    return jax.tree.map(
        lambda leaf: leaf + jnp.asarray(0.2 * draw.normal(size=leaf.shape), jnp.float32), tree
    )


def batch():
    draw = np.random.default_rng(3)
    return {
        "image": jnp.asarray(draw.integers(0, 256, (2, 8, 8, 3)), jnp.uint8),
        "disparity": jnp.asarray(draw.integers(0, 65536, (2, 8, 8)), jnp.uint16),
        "caption": jnp.stack([jnp.asarray(prompt_bytes(word, 8)) for word in ("cup", "table")]),
        "scene_id": jnp.arange(2, dtype=jnp.int32),
    }


def loss_of(params, scenes=None, **settings):
    return generate_loss(
        params,
        scenes or batch(),
        KEYS,
        model=MODEL,
        text=TEXT,
        simulation=SIMULATION,
        generation=GenerationConfig(**settings),
    )


def test_without_camera_there_is_no_parameter_for_one(params):
    assert params.keys() == {"dit", "text"}
    assert models.parameter_axes(MODEL, camera=False).keys() == {"dit"}
    assert models.init_params(MODEL, jax.random.key(0), 4, 4).keys() > {"dit", "camera"}


def test_scenes_are_shown_as_their_files_have_them():
    images = all_in_focus(batch(), KEYS, SIMULATION)
    np.testing.assert_allclose(images, np.asarray(batch()["image"]) / 127.5 - 1.0, atol=2e-3)


def test_both_predictions_are_one_network_seen_differently(params):
    """Equations (1) to (3) by hand: a perfect network has no loss, a known error a known one."""
    run = jax.jit(lambda p, **s: loss_of(p, **s), static_argnames=("prediction", "weighting"))
    sample, parts = run(params, prediction="sample", weighting="sample")
    psnr = 10 * np.log10(4.0 / float(sample))
    np.testing.assert_allclose(parts["sample_psnr_db"], psnr, rtol=1e-5)
    weighted, _ = run(params, prediction="sample", weighting="velocity")
    # Weights are 1/t² of the two scenes' own times, 1 at the least.
    assert float(weighted) > float(sample)
    # A network that answers 0 predicts a gray image, or no movement.
    silent = jax.tree.map(jnp.zeros_like, params)
    images = all_in_focus(batch(), jax.vmap(lambda k: jax.random.fold_in(k, 0))(KEYS), SIMULATION)
    gray, _ = run(silent, prediction="sample", weighting="sample")
    np.testing.assert_allclose(gray, np.mean(np.square(images)), rtol=1e-5)
    still, _ = run(silent, prediction="velocity", weighting="velocity")
    noise = jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, 2), (8, 8, 3)))(KEYS)
    # x̂ = x_t, so x̂ − x = t (ε − x), and the weight takes t away again where t > t₀.
    times = np.array([sample_time(TimeSampling(), jax.random.fold_in(k, 3)) for k in KEYS])
    left = np.square(times / np.maximum(times, 0.1)) * np.mean(
        np.square(noise - images), axis=(1, 2, 3)
    )
    np.testing.assert_allclose(still, np.mean(left), rtol=1e-4)


def test_least_time_bounds_the_weight(params):
    one, _ = loss_of(params, weighting="velocity", least_time=1.0)
    plain, _ = loss_of(params, weighting="sample")
    np.testing.assert_allclose(one, plain, rtol=1e-6)


def test_gradients_reach_the_encoder_of_text(params):
    gradient = jax.jit(jax.grad(lambda p: loss_of(p, text_dropout_rate=0.0)[0]))(params)
    assert np.abs(gradient["text"]["bytes"]).max() > 0
    withheld = jax.jit(jax.grad(lambda p: loss_of(p, text_dropout_rate=1.0)[0]))(params)
    # An empty prompt is the start token alone.
    np.testing.assert_array_equal(withheld["text"]["bytes"][1:], 0.0)
    assert np.abs(withheld["text"]["start"]).max() > 0


def test_a_prompt_changes_the_image_and_guidance_leaves_from_the_empty_one(params):
    def made(prompt, scale=1.0, steps=2):
        prompts = {"caption": jnp.asarray(prompt_bytes(prompt, 8))[None]}
        return jax.jit(
            lambda params: sample_images(
                params,
                prompts,
                KEYS[:1],
                (8, 8),
                model=MODEL,
                text=TEXT,
                generation=GenerationConfig(),
                num_steps=steps,
                guidance_scale=scale,
            )
        )(params)

    cup, empty = made("cup", steps=1), made("", steps=1)
    assert np.abs(cup - made("lamp", steps=1)).max() > 1e-3
    np.testing.assert_allclose(made("cup", 3.0, steps=1), empty + 3.0 * (cup - empty), atol=1e-4)
    np.testing.assert_array_equal(cup, made("cup", steps=1))
    assert np.abs(made("cup") - cup).max() > 1e-4


def test_stored_embeddings_are_taken_as_they_are_and_withheld_as_zeros():
    generation = GenerationConfig(text_from="stored")
    stored = {"text": jnp.ones((2, 3, 5), jnp.bfloat16), "pooled": jnp.ones((2, 4), jnp.bfloat16)}
    found = told({}, stored, text=TEXT, generation=generation, given=jnp.asarray([1.0, 0.0]))
    assert found.text is not None
    assert found.text.dtype == jnp.float32
    np.testing.assert_array_equal(found.text, np.ones((2, 3, 5)) * [[[1.0]], [[0.0]]])
    np.testing.assert_array_equal(found.pooled, np.ones((2, 4)) * [[1.0], [0.0]])


def test_a_batch_without_captions_is_refused(params):
    without = {name: value for name, value in batch().items() if name != "caption"}
    with pytest.raises(InvalidInput, match="batch lacks caption; allowed with text_from='bytes'"):
        loss_of(params, without)
    with pytest.raises(InvalidInput, match="batch lacks text, pooled"):
        loss_of(params, text_from="stored")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"least_time": 0.0}, "least_time is 0.0; allowed: above 0, up to 1"),
        ({"text_dropout_rate": 1.5}, "text_dropout_rate is 1.5; allowed: 0 to 1"),
    ],
)
def test_bad_settings_are_named(changes, said):
    with pytest.raises(InvalidInput, match=said):
        dataclasses.replace(GenerationConfig(), **changes)
