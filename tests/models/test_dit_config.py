import pytest

from bokeh_jax.errors import InvalidInput
from bokeh_jax.models.config import DiTConfig
from bokeh_jax.models.refocus_dit import RefocusConfig

GOOD = {
    "in_channels": 4,
    "out_channels": 4,
    "hidden_dim": 128,
    "num_heads": 2,
    "rope_axes_dim": (8, 28, 28),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in_channels": 0}, "in_channels is 0; allowed: 1 or more"),
        ({"out_channels": 0}, "out_channels is 0; allowed: 1 or more"),
        ({"hidden_dim": 0}, "hidden_dim is 0; allowed: 1 or more"),
        ({"num_heads": 0}, "num_heads is 0; allowed: 1 or more"),
        ({"context_dim": 0}, "context_dim is 0; allowed: 1 or more"),
        ({"pooled_dim": -1}, "pooled_dim is -1; allowed: 1 or more"),
        ({"num_double_blocks": -1}, "num_double_blocks is -1; allowed: 0 or more"),
        ({"num_single_blocks": -1}, "num_single_blocks is -1; allowed: 0 or more"),
        ({"num_double_blocks": 0, "num_single_blocks": 0}, "are 0; allowed: one block"),
        ({"num_heads": 3}, "hidden_dim is 128; allowed: multiples of num_heads 3"),
        ({"rope_axes_dim": (8, 28, 26)}, r"in sum 62; allowed: a sum of 64"),
        ({"rope_axes_dim": (7, 29, 28)}, r"\(7, 29, 28\); allowed: three positive even numbers"),
        ({"rope_axes_dim": (0, 32, 32)}, r"\(0, 32, 32\); allowed: three positive even numbers"),
        ({"rope_theta": 1.0}, "rope_theta is 1.0; allowed: more than 1"),
        ({"rope_theta": float("inf")}, "rope_theta is inf; allowed: more than 1"),
        ({"mlp_ratio": 0.0}, "mlp_ratio is 0.0; allowed: more than 0"),
    ],
)
def test_bad_values_are_named(change, message):
    with pytest.raises(InvalidInput, match=message):
        DiTConfig(**(GOOD | change))


@pytest.mark.parametrize(
    ("kind", "field", "message"),
    [
        (DiTConfig, "compute_dtype", "compute_dtype is 'odd'; allowed: bfloat16, float32"),
        (DiTConfig, "remat", "remat is 'odd'; allowed: none, full, dots"),
        (DiTConfig, "attention", "attention is 'odd'; allowed: xla, splash, cudnn"),
        (RefocusConfig, "reference_as", "reference_as is 'odd'; allowed: channels, tokens"),
        (RefocusConfig, "reference_sees", "reference_sees is 'odd'; allowed: all, itself"),
    ],
)
def test_unknown_names_are_named(kind, field, message):
    # Past the type hook, which refuses the name first.
    config = object.__new__(kind)
    good = kind(**GOOD) if kind is DiTConfig else kind()
    for name, value in (vars(good) | {field: "odd"}).items():
        object.__setattr__(config, name, value)
    with pytest.raises(InvalidInput, match=message):
        config.__post_init__()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": 0}, "patch_size is 0; allowed: 1 or more"),
        ({"text_dim": 0}, "text_dim is 0; allowed: 1 or more"),
        ({"hidden_dim": 250}, "hidden_dim is 250; allowed: multiples of num_heads 4"),
    ],
)
def test_bad_values_of_refocusing_are_named(change, message):
    with pytest.raises(InvalidInput, match=message):
        RefocusConfig(**change)


def test_flux_dev_beside_what_its_parameters_show():
    flux = DiTConfig.flux_dev()
    assert (flux.num_heads, flux.head_dim) == (24, 128)
    assert (flux.rope_axes_dim, flux.rope_theta) == ((16, 56, 56), 10_000.0)
    # 12 billion parameters leave no memory for the activations of 57 blocks.
    assert flux.remat == "full"


def test_refocusing_hands_every_number_down():
    changed = {
        "hidden_dim": 96,
        "num_heads": 2,
        "mlp_ratio": 3.0,
        "num_double_blocks": 1,
        "num_single_blocks": 5,
        "rope_axes_dim": (16, 16, 16),
        "rope_theta": 500.0,
        "compute_dtype": "float32",
        "remat": "dots",
        "scan_blocks": False,
    }
    dit = RefocusConfig(patch_size=4, text_dim=12, **changed).dit_config()
    assert {name: getattr(dit, name) for name in changed} == changed
    assert (dit.in_channels, dit.out_channels, dit.context_dim) == (13 * 16, 3 * 16, 12)
    tokens = RefocusConfig(patch_size=4, reference_as="tokens").dit_config()
    assert (tokens.in_channels, tokens.out_channels, tokens.context_dim) == (3 * 16, 3 * 16, None)
    assert (dit.head_dim, dit.mlp_dim) == (48, 288)
