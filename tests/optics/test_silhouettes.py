import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bokeh_jax.optics.matting import split_silhouettes

NEAR_COLOR, FAR_COLOR = np.array([0.9, 0.2, 0.1]), np.array([0.1, 0.4, 0.8])


def planes(picture):
    return jnp.float32(np.moveaxis(picture, -1, 0)[None])


split = jax.jit(split_silhouettes, static_argnums=2)


def share_at(found, signed_px):
    """Share of each pixel that belongs to the surfaces of one radius."""
    near, far = (np.asarray(px == signed_px)[0, 0] for px in (found.near_px, found.far_px))
    share = np.asarray(found.near_share)[0, 0]
    return near * share + far * (1 - share)


def slanted_edge(size=16):
    """True share of the nearer surface on the left of a slanted straight edge."""
    y, x = np.mgrid[:size, :size]
    return np.clip(size / 2 + 0.3 * (y - size / 2) - x + 0.5, 0, 1)


@pytest.mark.parametrize("near_px", [8.0, 0.0])
def test_the_share_of_each_surface_is_found_on_an_antialiased_edge(near_px):
    share = slanted_edge()
    picture = share[..., None] * NEAR_COLOR + (1 - share[..., None]) * FAR_COLOR
    named = share >= 0.5
    signed_px = jnp.float32(np.where(named, near_px, near_px - 6))[None, None]
    found = split(planes(picture), signed_px, 1.0)
    error = np.abs(share_at(found, near_px) - share)
    # Damping draws the share towards the disparity map's word; that alone would miss by a half.
    assert np.abs(named - share).max() > 0.39
    assert error.max() < 0.07
    mixed = (share > 0) & (share < 1)
    light = np.moveaxis(np.asarray(found.near_light[0]), 0, -1)[mixed]
    np.testing.assert_allclose(light, share[mixed, None] * NEAR_COLOR, atol=0.05)
    np.testing.assert_array_equal(found.near_px[0, 0][mixed], near_px)
    np.testing.assert_array_equal(found.far_px[0, 0][mixed], near_px - 6)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(3, 5))
def test_light_is_shared_out_and_a_pixel_stays_mostly_with_its_own_surface(seed, edge):
    random = np.random.default_rng(seed)
    image = jnp.float32(random.random((2, 3, 8, 8)))
    near = np.arange(8) < edge
    signed_px = jnp.broadcast_to(jnp.where(near, 5.0, 0.0), (2, 1, 8, 8))
    found = split(image, signed_px, 1.0)
    assert (found.near_light >= 0).all()
    assert (found.near_light <= image).all()
    mixed = np.zeros((8, 8), bool)
    mixed[:, edge - 1 : edge + 1] = True
    share = np.asarray(found.near_share[:, 0])
    assert (share[:, near & mixed] >= 0.5).all()
    assert (share[:, ~near & mixed] <= 0.5).all()
    assert np.ptp(share[:, mixed & near]) > 0.01


def test_trust_in_the_colours_nearby_fades_without_a_jump():
    share = slanted_edge()
    picture = planes(share[..., None] * NEAR_COLOR + (1 - share[..., None]) * FAR_COLOR)
    found = []
    for step in (0.0, 0.9999, 1.0001):
        # Only the pixels at some distance from the edge know its near colour.
        signed_px = np.where(share >= 0.5, 8.0, 0.0)
        signed_px[:, :6] -= step
        found.append(split(picture, jnp.float32(signed_px)[None, None], 1.0).near_share)
    np.testing.assert_allclose(found[1], found[2], atol=0.01)


def test_pixels_off_the_silhouettes_keep_their_light_bit_for_bit():
    random = np.random.default_rng(3)
    image = jnp.float32(random.random((1, 3, 8, 16)))
    signed_px = np.zeros((1, 1, 8, 16), np.float32)
    signed_px[..., 8:] = 7.0
    signed_px += np.float32(0.4 * random.random(signed_px.shape))
    found = split(image, jnp.asarray(signed_px), 1.0)
    off = np.r_[0:7, 9:16]
    own = np.asarray(found.near_px == signed_px)[..., off]
    share = np.asarray(found.near_share)[..., off]
    np.testing.assert_array_equal(share, own)
    expected = np.where(own, np.asarray(image)[..., off], 0)
    np.testing.assert_array_equal(np.asarray(found.near_light)[..., off], expected)


def test_a_small_step_is_no_silhouette():
    random = np.random.default_rng(4)
    image = jnp.float32(random.random((1, 3, 8, 8)))
    signed_px = jnp.asarray(np.where(np.arange(8) < 4, 1.0, 0.1)[None, None, None], jnp.float32)
    signed_px = jnp.broadcast_to(signed_px, (1, 1, 8, 8))
    found = split(image, signed_px, 1.0)
    assert set(np.unique(found.near_share)) <= {0.0, 1.0}


def test_a_line_too_thin_to_know_its_colour_stays_with_the_disparity_map():
    image = np.full((9, 9, 3), 0.5)
    image[:, 4] = 0.9
    signed_px = np.zeros((9, 9), np.float32)
    signed_px[:, 4] = 6.0
    found = split(planes(image), jnp.asarray(signed_px)[None, None], 1.0)
    np.testing.assert_array_equal(share_at(found, 6.0), signed_px == 6.0)


def test_equal_colours_give_no_information_and_change_nothing():
    image = planes(np.full((8, 8, 3), 0.3))
    signed_px = jnp.asarray(np.where(np.arange(8) < 4, 6.0, 0.0), jnp.float32)
    signed_px = jnp.broadcast_to(signed_px, (1, 1, 8, 8))
    found = split(image, signed_px, 1.0)
    np.testing.assert_allclose(share_at(found, 6.0), signed_px[0, 0] / 6, atol=1e-5)
