"""The count of operations against XLA's own count of the compiled forward pass."""

import jax
import jax.numpy as jnp
import pytest

from bokeh_jax import models
from bokeh_jax.chips import CHIPS, chip_named
from bokeh_jax.models import Conditions, RefocusConfig
from bokeh_jax.models.flops import refocus_forward_flops


@pytest.mark.parametrize("reference_as", ["channels", "tokens"])
def test_operations_are_those_that_the_compiler_counts(reference_as):
    config = RefocusConfig(
        patch_size=4,
        hidden_dim=128,
        num_heads=4,
        num_double_blocks=1,
        num_single_blocks=2,
        rope_axes_dim=(8, 12, 12),
        compute_dtype="float32",
        scan_blocks=False,
        reference_as=reference_as,
    )
    params = jax.eval_shape(lambda: models.init_params(config, jax.random.key(0), 48, 32))
    image = jax.ShapeDtypeStruct((2, 48, 32, 3), jnp.float32)
    time = jax.ShapeDtypeStruct((2,), jnp.float32)

    def forward(params, image, time):
        return models.apply(config, params, image, time, Conditions.of_reference(image))

    counted = jax.jit(forward).lower(params, image, time).compile().cost_analysis()["flops"]
    # The compiler also counts norms, softmax, activations and the embedding of time.
    assert 0.93 * counted < 2 * refocus_forward_flops(config, 48, 32) < counted


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
