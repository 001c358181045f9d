import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bokeh_jax.optics import decode_gamma, encode_gamma, linear_to_srgb, srgb_to_linear


def srgb_decode_reference(encoded: float) -> float:
    return encoded / 12.92 if encoded <= 0.04045 else ((encoded + 0.055) / 1.055) ** 2.4


def test_decoding_follows_the_standard_on_all_8_bit_codes():
    codes = np.arange(256) / 255
    expected = [srgb_decode_reference(code) for code in codes]
    np.testing.assert_allclose(srgb_to_linear(jnp.float32(codes)), expected, rtol=2e-6)


def test_the_pair_is_inverse_below_and_above_display_white():
    values = jnp.float32(np.concatenate([np.linspace(-0.01, 0.05, 50), np.linspace(0.05, 8, 50)]))
    np.testing.assert_allclose(linear_to_srgb(srgb_to_linear(values)), values, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(srgb_to_linear(linear_to_srgb(values)), values, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("value", [-0.5, 0.0, 0.001, 0.003, 0.5, 4.0])
def test_slopes_are_finite_and_inverse_to_each_other(value):
    encode_slope = jax.grad(linear_to_srgb)(jnp.float32(value))
    decode_slope = jax.grad(srgb_to_linear)(linear_to_srgb(jnp.float32(value)))
    np.testing.assert_allclose(encode_slope * decode_slope, 1.0, rtol=1e-5)


def test_gamma_pair_is_the_power_law_and_its_inverse():
    values = jnp.float32(np.linspace(0.01, 3, 40))
    np.testing.assert_allclose(decode_gamma(values), np.asarray(values) ** 2.2, rtol=2e-6)
    np.testing.assert_allclose(encode_gamma(values, 3.0), np.asarray(values) ** (1 / 3), rtol=2e-6)
    np.testing.assert_allclose(decode_gamma(encode_gamma(values, 4.0), 4.0), values, rtol=2e-5)


@pytest.mark.parametrize("transfer", [decode_gamma, encode_gamma])
def test_gamma_is_finite_in_value_and_slope_at_and_below_zero(transfer):
    for value in (0.0, -0.1, 1e-7):
        result, slope = jax.value_and_grad(transfer)(jnp.float32(value))
        assert np.isfinite(result)
        assert 0 < slope < 1e4
    assert transfer(jnp.float32(0.0)) == 0


@pytest.mark.parametrize("transfer", [decode_gamma, encode_gamma])
def test_gamma_must_be_positive(transfer):
    with pytest.raises(ValueError, match="gamma must be positive, got -1"):
        transfer(jnp.zeros(3), -1)
