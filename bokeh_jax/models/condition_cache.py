"""What sampling computes once: keys and values of the tokens that do not look at the noise.

With x the noisy tokens and r those of the reference (and the guess), `reference_sees='itself'`
makes a block

    r' = f(r, attention(q_r, k_r, v_r); time 0)
    x' = f(x, attention(q_x, [k_x, k_r], [v_x, v_r]); time t)

so that the r of every block, and with it k_r and v_r, is a function of the conditions alone. They
are computed here, once for all steps of a sampling, by the same network with the tokens r and no
others; a step then runs the noisy and the context tokens.

Context tokens (text, camera) are few, look at the noise and are modulated by the step's time, as in
FLUX: to keep them would change what imported weights do to text.

Memory, an example: 2 blocks · n_r · hidden elements of the compute type.
"""

from typing import Any

import jax.numpy as jnp

from bokeh_jax.errors import InvalidInput
from bokeh_jax.models.blocks import CACHE
from bokeh_jax.models.conditions import Conditions
from bokeh_jax.models.dit import DiT
from bokeh_jax.models.refocus_dit import (
    ConditionCache,
    RefocusConfig,
    defocus_in,
    image_tokens,
    text_or_none,
)


def condition_cache(
    config: RefocusConfig, params: dict[str, Any], conditions: Conditions
) -> ConditionCache:
    """Keys and values of the condition tokens of every block, for `apply(..., cache)`.

    Args:
        config: The network; its `reference_sees` is 'itself'.
        params: Its parameters.
        conditions: The same as those of the steps; the unconditional side of guidance has its own.

    Raises:
        InvalidInput: where conditions look at the noise, so that no step can do without them.
    """
    if config.reference_sees != "itself":
        raise InvalidInput(
            f"reference_sees is {config.reference_sees!r}; allowed: 'itself', for a condition cache"
        )
    visible = conditions.visible()
    batch = visible.reference.shape[0]
    # Of the first stream, which is left out, only the size counts.
    tokens, ids, maps = image_tokens(config, visible.reference, visible, slice(1, None))
    text, pooled = text_or_none(config, conditions, batch)
    hidden = defocus_in(config).apply({"params": params["defocus_in"]}, maps)
    guidance = config.distilled_guidance
    # No context: conditions do not see it.
    _, state = DiT(config.dit_config()).apply(
        {"params": params["dit"]},
        tokens,
        ids,
        None if text is None else text[:, :0],
        jnp.zeros((batch, 0, 3), jnp.int32),
        jnp.zeros((batch,), jnp.float32),
        pooled=pooled,
        guidance=None if guidance is None else jnp.full((batch,), guidance, jnp.float32),
        hidden_context=jnp.zeros((batch, 0, config.hidden_dim), jnp.float32),
        hidden_image=hidden,
        mutable=[CACHE],
    )
    return dict(state)[CACHE]
