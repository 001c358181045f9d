"""Our side of `bokeh-jax bench train-step`: the network's step, and the trainer's own by parts.

The network's step is what torch's is: mean square error of the transformer, its gradient, clipping
and AdamW as `training.state` builds it, in one executable with donated state. The trainer's own
step (simulation, losses, moving average) is timed next to it.
"""

import dataclasses
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Float

from bokeh_jax.commands.bench_train_step_report import RealStep, Setting, Turn
from bokeh_jax.config import ExperimentConfig, OptimizerConfig
from bokeh_jax.models import DiT, DiTConfig
from bokeh_jax.models.flops import TRAINING_PASSES, dit_forward_flops
from bokeh_jax.objectives import refocus_loss
from bokeh_jax.training.rng import example_keys, step_key
from bokeh_jax.training.state import apply_gradients, create_state, make_optimizer
from bokeh_jax.training.step import abstract_batch, train_step
from data_pipeline.order import Shape

PyTree = Any
# Arrays; more is not said so that they may be keyword arguments.
Inputs = dict[str, Any]
Call = Callable[[], Any]

GRID_COLUMNS = 16
_MATRIX_SIZE = 2048
_REAL_LAYERS = 2


def dit_config(setting: Setting) -> DiTConfig:
    """The setting as our transformer's config: blocks unrolled, nothing rematerialised."""
    return DiTConfig(
        in_channels=setting.channels,
        out_channels=setting.channels,
        hidden_dim=setting.hidden,
        num_heads=setting.heads,
        num_double_blocks=setting.double,
        num_single_blocks=setting.single,
        rope_axes_dim=setting.rope_axes,
        context_dim=setting.hidden,
        pooled_dim=setting.hidden,
        compute_dtype="bfloat16" if setting.dtype == "bfloat16" else "float32",
        scan_blocks=False,
    )


def make_inputs(setting: Setting) -> Inputs:
    """Random inputs of the transformer by name, and `target`."""
    random, batch = np.random.default_rng(0), setting.batch
    index = np.arange(setting.tokens)
    ids = np.stack((np.zeros_like(index), index // GRID_COLUMNS, index % GRID_COLUMNS), axis=-1)

    def normal(*shape: int) -> Array:
        return jnp.asarray(random.standard_normal(shape, np.float32))

    return {
        "image_tokens": normal(batch, setting.tokens, setting.channels),
        "image_ids": jnp.asarray(np.broadcast_to(ids, (batch, *ids.shape)), jnp.int32),
        "context_tokens": normal(batch, setting.context, setting.hidden),
        "context_ids": jnp.zeros((batch, setting.context, 3), jnp.int32),
        "time": jnp.asarray(random.random(batch, np.float32)),
        "pooled": normal(batch, setting.hidden),
        "target": normal(batch, setting.tokens, setting.channels),
    }


def forward_loss(
    config: DiTConfig, params: PyTree, inputs: Inputs
) -> tuple[Float[Array, ""], Float[Array, "b n c"]]:
    """(mean square of the output's difference from the target, the output)."""
    named = {name: value for name, value in inputs.items() if name != "target"}
    output = DiT(config).apply({"params": params}, **named)
    assert isinstance(output, jax.Array)
    return jnp.mean(jnp.square(output - inputs["target"])), output


def init_params(config: DiTConfig, inputs: Inputs) -> PyTree:
    """Start values of the network's parameters, without the names of their axes."""
    named = {name: value for name, value in inputs.items() if name != "target"}

    def init(key: Array, named: Inputs) -> PyTree:
        return nn.meta.unbox(DiT(config).init(key, **named))["params"]

    return jax.jit(init)(jax.random.key(0), named)


def step_flops(setting: Setting) -> float:
    """Operations of the step's products, models/flops.py."""
    forward = dit_forward_flops(dit_config(setting), setting.tokens, setting.context)
    return TRAINING_PASSES * setting.batch * forward


def make_step(setting: Setting) -> tuple[Call, int]:
    """(the compiled step, which keeps its state; number of parameters)."""
    config, inputs = dit_config(setting), make_inputs(setting)
    params = init_params(config, inputs)
    num_params = sum(leaf.size for leaf in jax.tree.leaves(params))
    optimizer = make_optimizer(_experiment(setting))

    def update(state: tuple[PyTree, PyTree], inputs: Inputs) -> tuple[Any, Array]:
        params, opt_state = state
        (loss, _), gradients = jax.value_and_grad(forward_loss, argnums=1, has_aux=True)(
            config, params, inputs
        )
        # Optax raises float betas to the integer count, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    state = (params, jax.jit(optimizer.init)(params))
    return _with_state(update, state, inputs), num_params


def _with_state(update: Callable[..., tuple[PyTree, Any]], state: PyTree, *rest: Any) -> Call:
    """`update` compiled, its state donated and kept from call to call, waited for."""
    compiled = jax.jit(update, donate_argnums=0).lower(state, *rest).compile()
    kept = [state]

    def call() -> None:
        kept[0], seen = compiled(kept[0], *rest)
        jax.block_until_ready((kept[0], seen))

    return call


def _experiment(setting: Setting) -> ExperimentConfig:
    optimizer = OptimizerConfig(
        peak_learning_rate=setting.learning_rate,
        weight_decay=setting.weight_decay,
        clip_norm=setting.clip_norm,
        beta1=setting.betas[0],
        beta2=setting.betas[1],
    )
    return ExperimentConfig(optimizer=optimizer)


def make_matrix_product(setting: Setting) -> Callable[[], float]:
    """Best rate of three products of square matrices, in operations per second."""
    random, shape = np.random.default_rng(0), (_MATRIX_SIZE, _MATRIX_SIZE)
    dtype = jnp.dtype(setting.dtype)
    first, second = (
        jnp.asarray(random.standard_normal(shape, np.float32)).astype(dtype) for _ in range(2)
    )
    product = jax.jit(jnp.matmul).lower(first, second).compile()

    def rate() -> float:
        seconds = min(
            timed(lambda: jax.block_until_ready(product(first, second))).seconds for _ in range(3)
        )
        return 2 * _MATRIX_SIZE**3 / seconds

    return rate


def timed(call: Call) -> Turn:
    """Time of one call, and processor time of all threads of this process during it."""
    before, start = os.times(), time.perf_counter()
    call()
    seconds, after = time.perf_counter() - start, os.times()
    return Turn(seconds, after.user + after.system - before.user - before.system)


def measure_real_step(config: ExperimentConfig, repeats: int) -> RealStep:
    """Times of the trainer's step and of two of its parts, in turns, on random layered scenes.

    Simulation and losses are the objective's forward pass with the smallest network there is; what
    the step takes beyond them and the update is the network's.
    """
    batch, count = _scenes(config), config.training.global_batch_size
    keys = example_keys(step_key(config.seed, "bench", 0), count)
    small = dataclasses.replace(
        config.model,
        hidden_dim=6,
        num_heads=1,
        rope_axes_dim=(2, 2, 2),
        num_double_blocks=0,
        num_single_blocks=1,
    )

    def simulate(params: PyTree, batch: Inputs) -> tuple[PyTree, Array]:
        loss, _ = refocus_loss(
            params,
            batch,
            keys,
            model=small,
            simulation=config.simulation,
            objective=config.objective,
        )
        return params, loss

    def update(state: Any, gradients: PyTree) -> tuple[Any, None]:
        return apply_gradients(state, gradients, config), None

    of_small = dataclasses.replace(config, model=small)
    params = jax.jit(lambda: create_state(of_small).params)()
    make_state = jax.jit(lambda: create_state(config))
    gradients = jax.jit(lambda params: jax.tree.map(jnp.zeros_like, params))(make_state().params)
    calls = {
        "step": _with_state(lambda s, b: train_step(s, {}, b, config=config), make_state(), batch),
        "simulation": _with_state(simulate, params, batch),
        "optimizer": _with_state(update, make_state(), gradients),
    }
    seconds = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(repeats):
        for name, call in calls.items():
            seconds[name].append(timed(call).seconds)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return RealStep(
        config.name, count, medians["step"], medians["simulation"], medians["optimizer"]
    )


def _scenes(config: ExperimentConfig) -> Inputs:
    """A random batch of layered scenes, no larger than the config's cameras need."""
    side_px = config.simulation.size_px
    height_px, width_px = config.simulation.needed_px((side_px, side_px), layered=True)
    shape = Shape("layered", height_px, width_px, _REAL_LAYERS, share=1.0)
    placement = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    random = np.random.default_rng(0)

    def values(leaf: jax.ShapeDtypeStruct) -> Array:
        most = 255 if leaf.dtype == jnp.uint8 else 1
        return jnp.asarray(random.uniform(0, most, leaf.shape)).astype(leaf.dtype)

    return jax.tree.map(values, abstract_batch(shape, config.training.global_batch_size, placement))
