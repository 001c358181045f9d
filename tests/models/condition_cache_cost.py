"""What a sampling step costs with conditions that see all, themselves, and from the cache.

    python tests/models/condition_cache_cost.py [TURNS]

256 noisy tokens, 256 of the reference and, in a second table, 256 of the guess. Steps are taken in
turns, and ratios are of the same turn: medians, with their range. Then the operations of FLUX.1's
shape, by `models/flops.py`, and what a cache holds there.
"""

import statistics
import sys
import time
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from bokeh_jax.models import Conditions, RefocusConfig, apply, condition_cache, init_params
from bokeh_jax.models.flops import refocus_forward_flops
from configs._flux import TRANSFORMER

CONFIG = RefocusConfig(
    patch_size=2,
    hidden_dim=256,
    num_heads=4,
    num_double_blocks=2,
    num_single_blocks=4,
    compute_dtype="float32",
    reference_as="tokens",
    guess_tokens=False,
)
SIZE_PX = 32
NUM_TEXT = 512


def programs(config):
    """Compiled programs by name, with what they are given."""
    itself = replace(config, reference_sees="itself")
    shapes = jax.eval_shape(lambda key: init_params(config, key, 2, 2), jax.random.key(0))
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.05 * random.standard_normal(leaf.shape, np.float32)), shapes
    )
    image = jnp.asarray(random.standard_normal((1, SIZE_PX, SIZE_PX, 3), np.float32))
    conditions = Conditions.of_reference(image)
    step = (params, image, jnp.ones(1), conditions)
    make = jax.jit(partial(condition_cache, itself))
    cache = make(params, conditions)
    return {
        "all": (jax.jit(partial(apply, config)), step),
        "itself": (jax.jit(partial(apply, itself)), step),
        "itself, cached": (jax.jit(partial(apply, itself)), (*step, cache)),
        "the cache": (make, (params, conditions)),
    }


def measure(config, turns):
    steps = programs(config)
    taken = {name: [] for name in steps}
    for turn in range(turns + 1):
        for name, (step, given) in steps.items():
            # Of all threads: what else the machine does does not count.
            start = time.process_time()
            jax.block_until_ready(step(*given))
            if turn:
                taken[name].append(time.process_time() - start)
    for name in list(steps)[1:]:
        ratios = [a / b for a, b in zip(taken[name], taken["all"], strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"processor time, {name} / all: {statistics.median(ratios):.2f} ({spread})")


def count(size_px, guess_tokens):
    """Operations of FLUX.1's shape and 512 tokens of text, in latents an eighth of the size."""
    config = RefocusConfig(**TRANSFORMER | {"guess_tokens": guess_tokens})
    itself = replace(config, reference_sees="itself")
    given = (size_px // 8, size_px // 8, NUM_TEXT)
    all_see = refocus_forward_flops(config, *given)
    without = refocus_forward_flops(itself, *given)
    cached = refocus_forward_flops(itself, *given, cached=True)
    tokens = (1 + guess_tokens) * (size_px // 16) ** 2
    blocks = config.num_double_blocks + config.num_single_blocks
    bytes_kept = 2 * blocks * tokens * config.hidden_dim * 2
    print(
        f"FLUX.1, {size_px} px, guess tokens {guess_tokens}: all {all_see / 1e12:.1f} TFLOP a step,"
        f" itself {without / all_see:.3f} of it, cached {cached / all_see:.3f}, 28 steps with the"
        f" cache {(27 * cached + without) / (28 * all_see):.3f}; cache {bytes_kept / 1e9:.2f} GB"
    )


def main(turns):
    for guess_tokens in (False, True):
        print(f"guess tokens: {guess_tokens}")
        measure(replace(CONFIG, guess_tokens=guess_tokens), turns)
    for size_px in (512, 1024):
        for guess_tokens in (False, True):
            count(size_px, guess_tokens)


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 15)
