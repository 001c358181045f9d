"""Times of the lens blur, of its peer and of a plain copy, on one scene and in one run.

The scene: spectra of amplitude 1/f, as natural images have, brought into [0, 1] as linear light;
signed radii on a ramp with smooth bumps, stretched to [-r, r], so that every layer of the
renderer is occupied and none can be skipped (a silhouette-free surface: the renderer's work depends
on the layers, not on what they show).

Everything is compiled and called once before it is timed. Ours and the peer take turns, so that
what else the machine does hits both.
"""

import functools
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bokeh_jax.commands.bench_report import Cost, Row
from bokeh_jax.optics import render_radius

# Far beyond the caches, which would otherwise be what is measured.
_COPY_MIB = {"cpu": 256}
_COPY_MIB_ACCELERATOR = 1024

Peer = Callable[[Float[np.ndarray, "h w 3"], Float[np.ndarray, "h w"]], np.ndarray]


def device_name() -> str:
    """The device that everything but the peer runs on."""
    device = jax.devices()[0]
    return f"{device.platform} ({device.device_kind})"


def copy_mib() -> int:
    """Size of the array that `copy_bytes_per_s` copies."""
    return _COPY_MIB.get(jax.devices()[0].platform, _COPY_MIB_ACCELERATOR)


def copy_bytes_per_s(mib: int, repeats: int) -> float:
    """Bandwidth of the device's memory: bytes read and written by the scaling of a large array.

    In place, because fresh memory is handed out page by page, which on a CPU takes many times as
    long as the copy. The best of the calls, because it stands for the limit.
    """
    # Not by one, which the compiler would turn into nothing at all.
    scaled = jax.jit(lambda x: x * jnp.float32(1.0000001), donate_argnums=0)
    values = jax.block_until_ready(scaled(jnp.ones((mib << 18,), jnp.float32)))
    times_s = []
    for _ in range(repeats):
        start = time.perf_counter()
        values = jax.block_until_ready(scaled(values))
        times_s.append(time.perf_counter() - start)
    return 2 * values.nbytes / min(times_s)


def scene(
    size_px: int, radius_px: float, batch: int
) -> tuple[Float[np.ndarray, "b h w 3"], Float[np.ndarray, "b h w"]]:
    """Images and signed radii of the bench, the same at every call."""
    random = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(size_px)[:, None], np.fft.rfftfreq(size_px)[None])
    amplitude = 1 / np.maximum(frequency, 1 / size_px)
    noise = random.standard_normal((batch, 3, size_px, size_px))
    light = np.fft.irfft2(np.fft.rfft2(noise) * amplitude, s=(size_px, size_px))
    image = np.moveaxis(_stretched(light, 0.0, 1.0), 1, -1)
    y, x = np.meshgrid(*[np.linspace(0, 1, size_px)] * 2, indexing="ij")
    phase = random.uniform(0, 2 * math.pi, (batch, 2, 1, 1))
    bumps = np.sin(2 * math.pi * 2 * x + phase[:, 0]) * np.sin(2 * math.pi * 3 * y + phase[:, 1])
    signed_radius_px = _stretched(x + 0.05 * bumps, -radius_px, radius_px)
    return image.astype(np.float32), signed_radius_px.astype(np.float32)


def _stretched(values: np.ndarray, lowest: float, highest: float) -> np.ndarray:
    """Every image of a batch brought to the same range."""
    axes = tuple(range(1, values.ndim))
    least, most = values.min(axes, keepdims=True), values.max(axes, keepdims=True)
    return lowest + (highest - lowest) * (values - least) / (most - least)


def measure_row(
    size_px: int,
    radius_px: float,
    *,
    batch: int,
    dtype: str,
    repeats: int,
    backward: bool,
    peer: Peer | None,
    peer_repeats: int,
) -> Row:
    """Times one size and largest radius.

    Args:
        size_px: height and width.
        radius_px: largest radius; the scene has every signed radius up to it.
        batch: images a call.
        dtype: of the input image, on the device; the peer gets float32.
        repeats: timed calls of ours.
        backward: whether to time the gradients for image and radii too.
        peer: what to compare with, one image a call; None for nothing.
        peer_repeats: timed passes of the peer over the batch.
    """
    light, radii_px = scene(size_px, radius_px, batch)
    image, signed_radius_px = jnp.asarray(light, jnp.dtype(dtype)), jnp.asarray(radii_px)
    calls, least_bytes = _ours(image, signed_radius_px, radius_px, backward=backward)
    counts = dict.fromkeys(calls, repeats)
    if peer is not None:
        calls["peer"] = lambda: [peer(*pair) for pair in zip(light, radii_px, strict=True)]
        least_bytes["peer"] = 2 * light.nbytes + radii_px.nbytes
        counts["peer"] = peer_repeats
        # Compiles; a corner will do, and spares the minutes that a whole frame may take.
        peer(light[0, :4, :4], radii_px[0, :4, :4])
    times_ms: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(max(counts.values())):
        for name, call in calls.items():
            if turn < counts[name]:
                times_ms[name].append(_timed_ms(call))
    costs = {name: Cost.of(times, least_bytes[name]) for name, times in times_ms.items()}
    return Row(
        size_px=size_px,
        radius_px=radius_px,
        depths_occupied=len(np.unique(np.rint(radii_px))),
        depths=2 * round(radius_px) + 1,
        forward=costs["forward"],
        forward_backward=costs.get("forward_backward"),
        peer=costs.get("peer"),
    )


def _ours(
    image: Float[Array, "b h w 3"],
    signed_radius_px: Float[Array, "b h w"],
    radius_px: float,
    *,
    backward: bool,
) -> tuple[dict[str, Callable[[], Any]], dict[str, int]]:
    """Compiled calls by name, warm, and the least bytes that each has to move."""
    scene = image, signed_radius_px
    read_bytes = image.nbytes + signed_radius_px.nbytes
    calls, least_bytes = {}, {}
    for name, function in functions(radius_px, backward=backward).items():
        calls[name] = functools.partial(jax.jit(function).lower(*scene).compile(), *scene)
        results = jax.block_until_ready(calls[name]())
        least_bytes[name] = read_bytes + sum(array.nbytes for array in jax.tree.leaves(results))
    return calls, least_bytes


def functions(radius_px: float, *, backward: bool) -> dict[str, Callable[..., Any]]:
    """What is measured, by name, of an image and its signed radii.

    Args:
        radius_px: largest radius.
        backward: whether the gradients for image and radii are measured too.
    """
    blur = functools.partial(render_radius, max_radius_px=radius_px)

    def mean_square(image: Array, signed_radius_px: Array) -> Array:
        return jnp.mean(jnp.square(blur(image, signed_radius_px)))

    found: dict[str, Callable[..., Any]] = {"forward": blur}
    if backward:
        found["forward_backward"] = jax.value_and_grad(mean_square, argnums=(0, 1))
    return found


def _timed_ms(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return 1e3 * (time.perf_counter() - start)
