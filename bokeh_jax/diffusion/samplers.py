"""From the source to the image: solving dx/dt = v(x, t) from t = 1 down to t = 0.

A model predicts the velocity v, or the sample x̂ with v = (x − x̂)/t. One step from t to t' is

    (1) Euler:  x' = x + (t' − t) v                       = x̂ + (t'/t)(x − x̂)
    (2) Heun:   x' = x + (t' − t)(v(x, t) + v(x', t'))/2   with x' of (1) on the right

Both forms of (1) agree in exact arithmetic. With a sample predictor the right one is used: the last
step, t' = 0, then returns x̂ bit for bit, so that one step is exactly the model's prediction.
Heun (Karras et al. 2022, "Elucidating the Design Space", algorithm 1) is of order 2. As there, the
velocity that a *sample* means has no value at t' = 0, so with a sample predictor the last step is
Euler's.

Classifier-free guidance (Ho and Salimans 2022) extrapolates between two predictions:

    (3) p = c + (w − 1)(c − u)

for conditional c and unconditional u; w = 1 is exactly c, w = 0 is u.

`sample` is one compiled loop. `iterate_samples` yields after each step, for progress bars.
"""

from collections.abc import Callable, Iterator
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bokeh_jax.diffusion.flow import per_example

Method = Literal["euler", "heun"]
Prediction = Literal["velocity", "sample"]
METHODS: tuple[Method, ...] = ("euler", "heun")
PREDICTIONS: tuple[Prediction, ...] = ("velocity", "sample")

# (x "b *d", time "b") -> velocity or sample "b *d"
Predictor = Callable[[Array, Array], Array]
_Step = Callable[[Array, Array, Array], Array]


def sample(
    predict: Predictor,
    start: Float[Array, "b *d"],
    times: Float[Array, " steps_plus_1"],
    *,
    method: Method = "euler",
    prediction: Prediction = "velocity",
) -> Float[Array, "b *d"]:
    """Follow the flow from `start` at `times[0]` to `times[-1]`; may be jitted and differentiated.

    Args:
        predict: Pure function of (x, time per example) to the velocity or the sample.
        start: The source z, for `times[0] == 1`.
        times: Falling times, from `time_grid`; all but the last must be positive.
        method: 'euler' (one prediction a step) or 'heun' (two).
        prediction: What `predict` returns.

    Raises:
        ValueError: for an unknown method or prediction, or fewer than two times.
    """
    step, last_step = _steps(predict, method, prediction, times.shape[0])

    def body(x: Array, interval: tuple[Array, Array]) -> tuple[Array, None]:
        return step(x, *interval), None

    x, _ = jax.lax.scan(body, start, (times[:-2], times[1:-1]))
    return last_step(x, times[-2], times[-1])


def iterate_samples(
    predict: Predictor,
    start: Float[Array, "b *d"],
    times: Float[Array, " steps_plus_1"],
    *,
    method: Method = "euler",
    prediction: Prediction = "velocity",
) -> Iterator[Float[Array, "b *d"]]:
    """As `sample`, but yield x after every step; the last one is the result.

    The loop runs on the host and steps are dispatched as they are asked for; pass a jitted
    `predict`. Bad arguments raise at the call, not at the first step.
    """
    step, last_step = _steps(predict, method, prediction, times.shape[0])
    return _iterate(step, last_step, start, times)


def guide(
    conditional: Float[Array, "b *d"],
    unconditional: Float[Array, "b *d"],
    scale: float | Float[Array, " b"],
) -> Float[Array, "b *d"]:
    """Classifier-free guidance, equation (3); exactly `conditional` at scale 1.

    Holds for velocities as for samples: one is an affine function of the other.
    """
    extra = per_example(scale, conditional.ndim) if isinstance(scale, jax.Array) else scale
    return conditional + (extra - 1.0) * (conditional - unconditional)


def guided(conditional: Predictor, unconditional: Predictor, scale: float) -> Predictor:
    """A predictor guided by `scale`: two evaluations a call, one (`conditional` itself) at 1."""
    if scale == 1.0:
        return conditional
    return lambda x, time: guide(conditional(x, time), unconditional(x, time), scale)


def _iterate(step: _Step, last_step: _Step, x: Array, times: Array) -> Iterator[Array]:
    for index in range(times.shape[0] - 2):
        x = step(x, times[index], times[index + 1])
        yield x
    yield last_step(x, times[-2], times[-1])


def _steps(predict: Predictor, method: str, prediction: str, num_times: int) -> tuple[_Step, _Step]:
    """The step and the last step, each (x, t, t_next) -> x at t_next."""
    if method not in METHODS:
        raise ValueError(f"sampling method is {method!r}; allowed: {', '.join(METHODS)}")
    if prediction not in PREDICTIONS:
        raise ValueError(f"prediction is {prediction!r}; allowed: {', '.join(PREDICTIONS)}")
    if num_times < 2:
        raise ValueError(f"times has {num_times} entries; allowed: 2 or more")

    def euler(x: Array, t: Array, t_next: Array) -> Array:
        return _advance(x, _ask(predict, x, t), t, t_next, prediction)

    def heun(x: Array, t: Array, t_next: Array) -> Array:
        first = _ask(predict, x, t)
        guess = _advance(x, first, t, t_next, prediction)
        second = _ask(predict, guess, t_next)
        if prediction == "sample":
            first, second = (x - first) / t, (guess - second) / t_next
        return x + (t_next - t) * 0.5 * (first + second)

    step = euler if method == "euler" else heun
    return step, euler if prediction == "sample" else step


def _ask(predict: Predictor, x: Array, t: Array) -> Array:
    return predict(x, jnp.broadcast_to(t, x.shape[:1]))


def _advance(x: Array, predicted: Array, t: Array, t_next: Array, prediction: str) -> Array:
    """Equation (1), in the form that suits the prediction."""
    if prediction == "sample":
        return predicted + (t_next / t) * (x - predicted)
    return x + (t_next - t) * predicted
