"""Floating-point operations of the transformer's products: the numerator of MFU.

A product of [m, k] and [k, n] is 2 m k n operations. With T tokens in all (N of images, C of
context), width c and MLP width f, one block forward is

    (1) attention, weights          2 T (3 c² + c²)
    (2) attention, logits and sum   2 · 2 T² c
    (3) MLP                         2 T · 2 c f
    (4) modulation                  2 · k c² an example, k = 12 (double) or 3 (single)

Of the T tokens R may be condition tokens, who see themselves only (`condition_cache.py`). Then

    (2') attention, logits and sum  2 · 2 ((T − R) T + R²) c
    (4') modulation                 with k = 18 or 6: the images' once more, for them

and a step with the cache lacks their part of (1), (3) and the input layer, R² of (2'), and the rest
of (4'); that is what the cache costs.

Embeddings, the output layer and what is no product (norms, softmax, the lens blur) are left out or
added where named; so are the products that rematerialisation repeats: this is what the model needs,
not what a machine does. The backward pass is twice the forward one (Kaplan et al. 2020, PaLM's
appendix B, arXiv 2204.02311): one product for the gradient of each operand. A frozen matrix has
none, so with adapters of rank r (Hu et al. 2021) beside frozen matrices a step needs

    (5) 2 · forward + (2) + 3 · 2 T r Σ (n_in + n_out)

summed over the adapted layers of blocks; queries, keys and values have an adapter each.
"""

from bokeh_jax.models.conditions import NUM_CAMERA_TOKENS
from bokeh_jax.models.config import DiTConfig
from bokeh_jax.models.refocus_dit import RefocusConfig

TRAINING_PASSES = 3


def dit_forward_flops(
    config: DiTConfig,
    num_image_tokens: int,
    num_context_tokens: int,
    num_condition_tokens: int = 0,
    num_cached_tokens: int = 0,
) -> float:
    """Equations (1) to (4) over all blocks, and the projections in and out, for one example.

    Args:
        config: The transformer.
        num_image_tokens: N, the condition tokens that are computed among them.
        num_context_tokens: C.
        num_condition_tokens: R.
        num_cached_tokens: Condition tokens besides, of which keys and values are given.
    """
    tokens, c, f = num_image_tokens + num_context_tokens, config.hidden_dim, config.mlp_dim
    own = num_condition_tokens
    attention = _attention_flops(config, tokens, own, num_cached_tokens)
    block = 2 * tokens * (4 * c**2 + 2 * c * f) + attention
    blocks = config.num_double_blocks * (block + (36 if own else 24) * c**2)
    blocks += config.num_single_blocks * (block + (12 if own else 6) * c**2)
    ends = 2 * num_image_tokens * c * (config.in_channels + config.out_channels)
    if config.context_dim is not None:
        ends += 2 * num_context_tokens * c * config.context_dim
    return float(blocks + ends)


def _attention_flops(config: DiTConfig, tokens: int, own: int = 0, cached: int = 0) -> int:
    """Equation (2) of one block."""
    return 4 * ((tokens - own) * (tokens + cached) + own**2) * config.hidden_dim


def _adapter_flops(config: DiTConfig, tokens: int) -> int:
    """The products of one adapter in all blocks, in one forward pass."""
    c, f, lora = config.hidden_dim, config.mlp_dim, config.lora
    attention, mlp = (lora.on(name) is not None for name in ("attention", "mlp"))
    double = attention * 8 * c + mlp * 2 * (c + f)
    single = attention * 6 * c + mlp * (c + f) + (attention or mlp) * (2 * c + f)
    widths = config.num_double_blocks * double + config.num_single_blocks * single
    return 2 * tokens * lora.rank * len(lora.adapters) * widths


def _token_counts(config: RefocusConfig, height_px: int, width_px: int) -> tuple[int, int, int]:
    """(noisy tokens, N with the conditions', R) of one image."""
    patches = height_px * width_px // config.patch_size**2
    streams = 1 if config.reference_as == "channels" else 2 + config.guess_tokens
    own = (streams - 1) * patches if config.reference_sees == "itself" else 0
    return patches, streams * patches, own


def refocus_forward_flops(
    config: RefocusConfig,
    height_px: int,
    width_px: int,
    num_text_tokens: int = 0,
    *,
    cached: bool = False,
) -> float:
    """One evaluation of the refocusing network on one image; with a condition cache or without."""
    patches, image_tokens, own = _token_counts(config, height_px, width_px)
    return dit_forward_flops(
        config.dit_config(),
        patches if cached else image_tokens,
        num_text_tokens + NUM_CAMERA_TOKENS,
        num_condition_tokens=0 if cached else own,
        num_cached_tokens=own if cached else 0,
    )


def refocus_training_flops(config: RefocusConfig, height_px: int, width_px: int) -> float:
    """Forward and backward on one image, no text; equation (5) where the network is adapted."""
    forward = refocus_forward_flops(config, height_px, width_px)
    _, image_tokens, own = _token_counts(config, height_px, width_px)
    return _training_flops(config, forward, image_tokens + NUM_CAMERA_TOKENS, own)


def generate_training_flops(
    config: RefocusConfig, height_px: int, width_px: int, num_text_tokens: int
) -> float:
    """Forward and backward on one image made of text alone, without the encoder of text."""
    patches = height_px * width_px // config.patch_size**2
    forward = dit_forward_flops(config.dit_config(), patches, num_text_tokens)
    return _training_flops(config, forward, patches + num_text_tokens, 0)


def _training_flops(config: RefocusConfig, forward: float, tokens: int, own: int) -> float:
    """Of one image: three times forward, or equation (5)."""
    if not config.lora.rank:
        return TRAINING_PASSES * forward
    dit = config.dit_config()
    blocks = config.num_double_blocks + config.num_single_blocks
    attention = blocks * _attention_flops(dit, tokens, own)
    return 2 * forward + attention + TRAINING_PASSES * _adapter_flops(dit, tokens)
