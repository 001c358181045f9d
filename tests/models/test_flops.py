"""The count of operations against XLA's own count of the compiled forward pass."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from bokeh_jax import models
from bokeh_jax.chips import CHIPS, chip_named
from bokeh_jax.leaf_names import leaves_by_name, tree_by_name
from bokeh_jax.models import Conditions, RefocusConfig
from bokeh_jax.models.config import LoraConfig
from bokeh_jax.models.flops import refocus_forward_flops, refocus_training_flops
from bokeh_jax.models.lora import is_adapter, joined

SMALL = RefocusConfig(
    patch_size=4,
    hidden_dim=128,
    num_heads=4,
    num_double_blocks=1,
    num_single_blocks=2,
    rope_axes_dim=(8, 12, 12),
    compute_dtype="float32",
    scan_blocks=False,
)
IMAGE = jax.ShapeDtypeStruct((2, 48, 32, 3), jnp.float32)
TIME = jax.ShapeDtypeStruct((2,), jnp.float32)


@pytest.mark.parametrize("reference_as", ["channels", "tokens"])
def test_operations_are_those_that_the_compiler_counts(reference_as):
    config = dataclasses.replace(SMALL, reference_as=reference_as)
    params = jax.eval_shape(lambda: models.init_params(config, jax.random.key(0), 48, 32))

    def forward(params, image, time):
        return models.apply(config, params, image, time, Conditions.of_reference(image))

    counted = jax.jit(forward).lower(params, IMAGE, TIME).compile().cost_analysis()["flops"]
    # The compiler also counts norms, softmax, activations and the embedding of time.
    assert 0.93 * counted < 2 * refocus_forward_flops(config, 48, 32) < counted


@pytest.mark.parametrize("targets", [("attention", "mlp"), ("attention",), ("mlp",)])
def test_training_adapters_needs_no_gradient_of_frozen_matrices(targets):
    config = dataclasses.replace(SMALL, lora=LoraConfig(rank=16, targets=targets))
    params = jax.eval_shape(lambda: models.init_params(config, jax.random.key(0), 48, 32))
    leaves = leaves_by_name(params)
    trained = tree_by_name({name: leaf for name, leaf in leaves.items() if is_adapter(name)})
    frozen = tree_by_name({name: leaf for name, leaf in leaves.items() if not is_adapter(name)})

    def loss(trained, frozen, image, time):
        params = joined(frozen, trained)
        return jnp.sum(models.apply(config, params, image, time, Conditions.of_reference(image)))

    # The image has a gradient as the layers before the blocks have, which are trained too.
    step = jax.jit(jax.grad(loss, argnums=(0, 2))).lower(trained, frozen, IMAGE, TIME)
    counted = step.compile().cost_analysis()["flops"]
    ours = 2 * refocus_training_flops(config, 48, 32)
    assert 0.9 * counted < ours < 1.03 * counted, ours / counted
    assert ours < 0.9 * 3 * 2 * refocus_forward_flops(config, 48, 32)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v5 lite", "v5e"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA H100 80GB HBM3", "H100"),
    ],
)
def test_a_device_kind_has_its_chip(kind, name):
    assert chip_named(kind) is CHIPS[name]
    assert chip_named("cpu") is None
