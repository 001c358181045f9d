"""Which times are trained and which are visited when sampling.

Training draws t from U(0, 1), or from the logit-normal of Esser et al. 2024 ("Scaling Rectified
Flow Transformers", section 3.1), which favours the middle of the path:

    (1) t = σ(u),  u ~ N(mean, std²)

Larger images need more noise to hide the same detail. Esser et al. (equation 23) shift times by

    (2) shift(t) = s t / (1 + (s − 1) t),   the same as  logit(shift(t)) = logit(t) + log s,

and FLUX makes s a function of the number of image tokens n, with log s on the line through
(256, 0.5) and (4096, 1.15):

    (3) log s(n) = 0.5 + (n − 256) · 0.65 / 3840

Shifts compose: shift by a after shift by b is shift by a·b.
"""

import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

TimeKind = Literal["uniform", "logit_normal"]
TIME_KINDS: tuple[TimeKind, ...] = ("uniform", "logit_normal")

_FLUX_TOKENS = (256, 4096)
_FLUX_LOG_SHIFT = (0.5, 1.15)


@dataclass(frozen=True)
class TimeSampling:
    """How training times are drawn.

    Attributes:
        kind: 'uniform' or 'logit_normal'.
        mean: Mean of logit(t), for 'logit_normal'.
        std: Standard deviation of logit(t), for 'logit_normal'; more than 0.
        shift: s of equation (2); 1 leaves the times as they are, more favours the source's end.
        shift_by_tokens: Multiply `shift` by FLUX's s(n) of equation (3).
    """

    kind: TimeKind = "logit_normal"
    mean: float = 0.0
    std: float = 1.0
    shift: float = 1.0
    shift_by_tokens: bool = False

    def __post_init__(self) -> None:
        if self.kind not in TIME_KINDS:
            raise ValueError(f"time kind is {self.kind!r}; allowed: {', '.join(TIME_KINDS)}")
        if not math.isfinite(self.mean):
            raise ValueError(f"time mean is {self.mean}; allowed: finite numbers")
        if not (self.std > 0 and math.isfinite(self.std)):
            raise ValueError(f"time std is {self.std}; allowed: more than 0")
        _check_shift(self.shift)


def sample_time(
    sampling: TimeSampling,
    key: Key[Array, ""],
    shape: tuple[int, ...] = (),
    *,
    num_tokens: int | None = None,
) -> Float[Array, "..."]:
    """Training times in [0, 1], float32.

    Args:
        sampling: The distribution.
        key: Spent here; with one key an example, `jax.vmap` over keys and leave `shape` empty.
        shape: Shape of the draw.
        num_tokens: Image tokens of the model; needed for `shift_by_tokens`.

    Raises:
        ValueError: where the shift depends on the number of tokens and none is given.
    """
    shift = sampling.shift
    if sampling.shift_by_tokens:
        if num_tokens is None:
            raise ValueError("num_tokens is None; shift_by_tokens needs the number of image tokens")
        shift = shift * shift_for_tokens(num_tokens)
    if sampling.kind == "uniform":
        times = jax.random.uniform(key, shape, jnp.float32)
    else:
        logit = sampling.mean + sampling.std * jax.random.normal(key, shape, jnp.float32)
        times = jax.nn.sigmoid(logit)
    return shift_time(times, shift)


def shift_for_tokens(num_tokens: int) -> float:
    """FLUX's shift s for an image of `num_tokens` tokens, equation (3).

    Raises:
        ValueError: for fewer than one token.
    """
    if num_tokens < 1:
        raise ValueError(f"num_tokens is {num_tokens}; allowed: 1 or more")
    (low, high), (log_low, log_high) = _FLUX_TOKENS, _FLUX_LOG_SHIFT
    return math.exp(log_low + (num_tokens - low) * (log_high - log_low) / (high - low))


def shift_time(time: Float[Array, "*s"], shift: float) -> Float[Array, "*s"]:
    """Times moved towards the source by `shift` > 1 (towards the image by less), equation (2).

    Keeps 0 and 1 exactly. Raises ValueError where `shift` is not positive and finite.
    """
    _check_shift(shift)
    # s + (1 − s)(1 − t) is 1 + (s − 1) t, written so that t = 1 gives s/s, which is exactly 1.
    return shift * time / (shift + (1.0 - shift) * (1.0 - time))


def time_grid(num_steps: int, shift: float = 1.0) -> Float[Array, " num_steps_plus_1"]:
    """The `num_steps + 1` times from exactly 1 to exactly 0 that a sampler visits, float32.

    Evenly spaced, then shifted by equation (2): a shift above 1 spends more steps near the source.

    Raises:
        ValueError: for fewer than one step or a shift that is not positive and finite.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; allowed: 1 or more")
    steps = jnp.arange(num_steps, -1, -1, dtype=jnp.float32)
    return shift_time(steps / num_steps, shift)


def _check_shift(shift: float) -> None:
    if not (shift > 0 and math.isfinite(shift)):
        raise ValueError(f"time shift is {shift}; allowed: more than 0")
