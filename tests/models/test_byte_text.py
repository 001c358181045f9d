"""The byte-level text encoder: what is filled up is not seen, what is written is, and in order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bokeh_jax.errors import InvalidInput
from bokeh_jax.models import byte_text
from bokeh_jax.models.byte_text import (
    ByteTextConfig,
    encode_prompts,
    prompt_bytes,
    word_hashes,
)

SMALL = ByteTextConfig(
    max_bytes=12, hidden_dim=8, num_heads=2, num_blocks=1, num_tokens=3, compute_dtype="float32"
)


@pytest.fixture(scope="module")
def params():
    return byte_text.init_params(SMALL, jax.random.key(0))


@pytest.fixture(scope="module")
def encoded(params):
    run = jax.jit(lambda params, prompts: encode_prompts(SMALL, params, prompts))
    return lambda *prompts: run(
        params, jnp.stack([jnp.asarray(prompt_bytes(prompt, 12)) for prompt in prompts])
    )


def test_a_prompt_is_so_many_tokens_however_long(encoded):
    text, pooled = encoded("", "a cup", "a red cup on a table")
    assert text.shape == (3, 3, 8)
    np.testing.assert_allclose(pooled, text.mean(axis=1), rtol=1e-6)
    assert np.isfinite(text).all()


def test_what_is_cut_does_not_count_and_what_is_there_does(encoded):
    text, _ = encoded("a red cup on", "a red cup on a table", "a red cup in")
    np.testing.assert_array_equal(text[0], text[1])
    assert np.abs(text[0] - text[2]).max() > 1e-3


def test_places_that_are_filled_up_are_not_looked_at(params, encoded):
    moved = jax.tree.map(lambda leaf: leaf, params)
    positions = np.asarray(params["positions"])
    moved["positions"] = jnp.asarray(
        positions + (np.arange(12) >= 5)[:, None] * np.eye(8, dtype="f4")[0]
    )
    prompts = jnp.asarray(prompt_bytes("a cup", 12))[None]
    text, _ = encode_prompts(SMALL, moved, prompts)
    np.testing.assert_allclose(text[0], encoded("a cup", "", "")[0][0], atol=1e-5)
    text, _ = encode_prompts(SMALL, moved, jnp.asarray(prompt_bytes("a cups", 12))[None])
    assert np.abs(text[0] - encoded("a cups", "", "")[0][0]).max() > 1e-3


def test_order_matters(encoded):
    text, _ = encoded("ab", "ba", "")
    assert np.abs(text[0] - text[1]).max() > 1e-3


def test_a_word_has_one_hash_wherever_it_stands():
    prompts = "a red cup, Red!", "cup of é7"
    raw = jnp.stack([jnp.asarray(prompt_bytes(prompt, 16)) for prompt in prompts])
    found = np.asarray(word_hashes(raw, 4096))

    def expected(word: bytes) -> int:
        value = 0
        for byte in word.lower():
            value = 31 * value + byte
        return value % 4096

    ends = [(0, 4, b"red"), (0, 8, b"cup"), (0, 13, b"red"), (1, 2, b"cup"), (1, 9, b"\xc3\xa97")]
    for row, last, word in ends:
        assert found[row, last] == expected(word), word
    assert found[0, 7] == expected(b"cu")
    between = [1, 5, 9, 10, 14, 15]
    assert (found[0, between] == 0).all()


def test_a_fresh_encoder_tells_prompts_and_its_own_tokens_apart():
    """What all prompts have in common must not drown what they say, or nothing is learned of it."""
    config = ByteTextConfig(compute_dtype="float32")
    params = byte_text.init_params(config, jax.random.key(1))
    prompts = [
        f"One thing, nearest first: a {thing} in the centre, near, before a backdrop of {place}."
        for thing, place in (("star of brick", "grass"), ("triangle of cat fur", "galaxies"))
    ]
    raw = jnp.stack([jnp.asarray(prompt_bytes(prompt, config.max_bytes)) for prompt in prompts])
    text, _ = jax.jit(lambda raw: encode_prompts(config, params, raw))(raw)
    size = np.sqrt(np.mean(np.square(text)))
    assert size > 0.1
    assert np.sqrt(np.mean(np.square(text[0] - text[1]))) > 0.2 * size
    assert np.std(text[0], axis=0).mean() > 0.2 * size


def test_prompts_are_utf_8():
    assert prompt_bytes("é", 4).tolist() == [0xC3, 0xA9, 0, 0]
    assert prompt_bytes(b"abcdef", 4).tolist() == list(b"abcd")
    with pytest.raises(InvalidInput, match="has a character NUL"):
        prompt_bytes("a\0b", 4)


def test_every_parameter_is_used(params):
    prompts = jnp.asarray(prompt_bytes("a cup", 12))[None]
    gradients = jax.grad(lambda params: jnp.sum(encode_prompts(SMALL, params, prompts)[0] ** 2))(
        params
    )
    # A softmax does not change where all its logits are moved alike: keys have no use for a bias.
    unused = {"attention_0/key/bias", "read/key/bias"}
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        name = "/".join(key.key for key in path)
        assert (np.abs(leaf).max() > 1e-6) != (name in unused), name


def test_names_of_axes_lie_beside_every_parameter(params):
    axes = byte_text.parameter_axes(SMALL)
    assert jax.tree.structure(axes) == jax.tree.structure(params)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("max_bytes", 0, "text.max_bytes is 0; allowed: 1 or more"),
        ("hidden_dim", 9, "text.hidden_dim is 9; allowed: multiples of text.num_heads 4"),
        ("num_blocks", -1, "text.num_blocks is -1; allowed: 0 or more"),
    ],
)
def test_bad_settings_are_named(field, value, said):
    with pytest.raises(InvalidInput, match=said):
        ByteTextConfig(**{field: value})


def test_another_length_is_refused(params):
    with pytest.raises(InvalidInput, match=r"prompts have 5 bytes; allowed: text\.max_bytes 12"):
        encode_prompts(SMALL, params, jnp.zeros((1, 5), jnp.uint8))
