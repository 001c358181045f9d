"""Floating-point operations of the transformer's products: the numerator of MFU.

A product of [m, k] and [k, n] is 2 m k n operations. With T tokens in all (N of images, C of
context), width c and MLP width f, one block forward is

    (1) attention, weights          2 T (3 c² + c²)
    (2) attention, logits and sum   2 · 2 T² c
    (3) MLP                         2 T · 2 c f
    (4) modulation                  2 · k c² an example, k = 12 (double) or 3 (single)

Embeddings, the output layer and what is no product (norms, softmax, the lens blur) are left out or
added where named; so are the products that rematerialisation repeats: this is what the model needs,
not what a machine does. The backward pass is twice the forward one (Kaplan et al. 2020, PaLM's
appendix B, arXiv 2204.02311).
"""

from bokeh_jax.models.conditions import NUM_CAMERA_TOKENS
from bokeh_jax.models.config import DiTConfig
from bokeh_jax.models.refocus_dit import RefocusConfig

TRAINING_PASSES = 3


def dit_forward_flops(config: DiTConfig, num_image_tokens: int, num_context_tokens: int) -> float:
    """Equations (1) to (4) over all blocks, and the projections in and out, for one example."""
    tokens, c, f = num_image_tokens + num_context_tokens, config.hidden_dim, config.mlp_dim
    block = 2 * tokens * (4 * c**2 + 2 * c * f) + 4 * tokens**2 * c
    blocks = config.num_double_blocks * (block + 24 * c**2)
    blocks += config.num_single_blocks * (block + 6 * c**2)
    ends = 2 * num_image_tokens * c * (config.in_channels + config.out_channels)
    if config.context_dim is not None:
        ends += 2 * num_context_tokens * c * config.context_dim
    return float(blocks + ends)


def refocus_forward_flops(
    config: RefocusConfig, height_px: int, width_px: int, num_text_tokens: int = 0
) -> float:
    """One evaluation of the refocusing network on one image."""
    patches = height_px * width_px // config.patch_size**2
    streams = 1 if config.reference_as == "channels" else 2 + config.guess_tokens
    return dit_forward_flops(
        config.dit_config(), streams * patches, num_text_tokens + NUM_CAMERA_TOKENS
    )
