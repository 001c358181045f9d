"""EXIF as tokens: what they depend on, and what they do to a generator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bokeh_jax.errors import InvalidInput
from bokeh_jax.models import TextOnly, byte_text
from bokeh_jax.models.byte_text import ByteTextConfig, prompt_bytes
from bokeh_jax.models.exif_tokens import EXIF_TOKENS, exif_octaves, exif_tokens, init_params
from bokeh_jax.objectives.generate import GenerationConfig, told
from bokeh_jax.optics import Exif

TEXT = ByteTextConfig(
    max_bytes=8, hidden_dim=8, num_heads=2, num_blocks=0, num_tokens=2, compute_dtype="float32"
)
READS = GenerationConfig(images="photographs", exif_tokens=True)


def exif(f_number):
    fields = np.asarray([[50.0, 50.0, f_number], [35.0, 52.5, f_number]], np.float32)
    return Exif.from_fields(jnp.asarray(fields))


def test_the_numbers_are_octaves_of_f_number_view_and_opening():
    first, second = exif_octaves(exif(2.0)), exif_octaves(exif(8.0))
    # Two stops of two are two octaves of the f-number, and as many less of the opening.
    np.testing.assert_allclose(second - first, [[0.25, 0.0, -0.25]] * 2, atol=1e-6)
    # 35 mm on a sensor 24 mm wide: as 52.5 mm on 36 mm.
    np.testing.assert_allclose(first[1, 1], np.log2(52.5 / 36.0) / 8.0, atol=1e-6)
    np.testing.assert_allclose(first[0, 2], np.log2(12.5 / 10.0) / 8.0, atol=1e-6)


def test_unknown_exif_is_the_learned_null_whatever_stands_there():
    params = init_params(8, jax.random.key(0))
    known = exif_tokens(params, exif(2.0), jnp.asarray([1.0, 0.0]))
    other = exif_tokens(params, exif(jnp.nan), jnp.asarray([0.0, 0.0]))
    np.testing.assert_array_equal(known[1], params["null"])
    np.testing.assert_array_equal(other, np.broadcast_to(params["null"], (2, 3, 8)))
    assert float(jnp.abs(known[0] - params["null"]).max()) > 0.01
    closer = exif_tokens(params, exif(2.2), jnp.asarray([1.0, 1.0]))
    assert float(jnp.abs(known[0] - closer[0]).max()) > 0.01


def test_a_network_is_told_prompt_then_camera():
    tree = {
        "text": byte_text.init_params(TEXT, jax.random.key(1)),
        EXIF_TOKENS: init_params(8, jax.random.key(2)),
    }
    prompts = {"caption": np.stack([prompt_bytes("a", 8), prompt_bytes("b", 8)])}
    camera = {"camera": np.asarray([[50, 50, 2], [50, 50, 16]], np.float32)}
    known = told(tree, prompts | camera, text=TEXT, generation=READS)
    alone = told(tree, prompts | camera, text=TEXT, generation=GenerationConfig())
    assert isinstance(known, TextOnly)
    assert known.text.shape == (2, 5, 8)
    np.testing.assert_array_equal(known.text[:, :2], alone.text)
    assert float(jnp.abs(known.text[0, 2:] - known.text[1, 2:]).max()) > 0.01
    # No camera, and a camera that is withheld, are the same.
    unknown = told(tree, prompts, text=TEXT, generation=READS).text[:, 2:]
    withheld = told(
        tree, prompts | camera, text=TEXT, generation=READS, exif_given=jnp.asarray([0.0, 1.0])
    ).text[:, 2:]
    np.testing.assert_array_equal(unknown[0], tree[EXIF_TOKENS]["null"])
    np.testing.assert_array_equal(withheld[0], unknown[0])
    np.testing.assert_array_equal(withheld[1], known.text[1, 2:])


def test_what_has_no_lens_has_no_exif():
    with pytest.raises(InvalidInput, match=r"exif_tokens is true with images='all_in_focus'"):
        GenerationConfig(exif_tokens=True)
