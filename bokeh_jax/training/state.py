"""The training state: one pytree, created sharded, updated in one place.

    m, v, θ ← AdamW(∇L, clipped to norm c; rate: linear warm-up, then cosine)
              of the task 'defocus' each part's ∇L is clipped by itself
    ema     ← β ema + (1 − β) θ         (of the updated θ; β grows from 0 as min(β, (1+n)/(10+n)))

The growing β is the customary warm-up of the average: without it the random start would dominate
short runs.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Integer

from bokeh_jax.config import ExperimentConfig
from bokeh_jax.models.photo_head import HEAD
from bokeh_jax.objectives.distribution_matching import FAKE
from bokeh_jax.pytree import pytree_dataclass
from bokeh_jax.training.network import abstract_network, fresh_network, trained_part

PyTree = Any


@pytree_dataclass
class TrainState:
    """Everything that training changes.

    Attributes:
        step: int32 scalar, updates done.
        params: float32 tree of what is trained; what is not is an argument of the step (`network`).
        opt_state: optax state.
        ema: exponential moving average of `params`, float32.
    """

    step: Integer[Array, ""]
    params: PyTree
    opt_state: PyTree
    ema: PyTree


def learning_rate(config: ExperimentConfig) -> optax.Schedule:
    """Rate as a function of the number of updates done."""
    optimizer = config.optimizer
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=optimizer.peak_learning_rate,
        warmup_steps=optimizer.warmup_steps,
        decay_steps=config.training.num_steps,
        end_value=optimizer.peak_learning_rate * optimizer.final_fraction,
    )
    # Optax's schedules mix the integer count with floats, which strict promotion refuses.
    return lambda count: schedule(jnp.asarray(count, jnp.float32))


def make_optimizer(config: ExperimentConfig) -> optax.GradientTransformation:
    """AdamW; matrices decay, and nothing else.

    Names tell which are matrices: biases and norm scales of repeated blocks are stacked.
    """
    optimizer = config.optimizer
    is_matching = config.task == "defocus"
    clip = optax.clip_by_global_norm(optimizer.clip_norm)
    parts = (
        _by_part(clip) if is_matching else clip,
        optax.adamw(
            learning_rate(config),
            b1=optimizer.beta1,
            b2=optimizer.beta2,
            weight_decay=optimizer.weight_decay,
            mask=lambda params: jax.tree_util.tree_map_with_path(
                lambda path, _: path[-1].key == "kernel", params
            ),
        ),
    )
    # Elsewhere states stay as checkpoints have them.
    return optax.chain(*parts, *([_slower_parts(config)] if is_matching else []))


def _by_part(transformation: optax.GradientTransformation) -> optax.GradientTransformation:
    """A transformation without a state, of each part of the network by itself.

    By the norm of all parts together, the fake score's gradients would scale the generator's.
    """

    def apart(updates: PyTree, _: PyTree) -> PyTree:
        state = transformation.init(updates)
        return {part: transformation.update(tree, state)[0] for part, tree in updates.items()}

    return optax.stateless(apart)


def _slower_parts(config: ExperimentConfig) -> optax.GradientTransformation:
    """Updates of what makes photographs, `fake_updates` times smaller than of what judges them."""
    factor = 1.0 / config.matching.fake_updates
    judges = (FAKE, HEAD)

    def scaled(updates: PyTree, _: PyTree) -> PyTree:
        return {
            part: tree if part in judges else jax.tree.map(lambda leaf: factor * leaf, tree)
            for part, tree in updates.items()
        }

    return optax.stateless(scaled)


def create_state(config: ExperimentConfig) -> TrainState:
    """Fresh state; pure in the config, so it can be traced, shaped and sharded by the caller."""
    return state_of_params(config, trained_part(config, fresh_network(config)))


def state_of_params(config: ExperimentConfig, params: PyTree) -> TrainState:
    """State of a run that starts at these parameters: step 0, optimizer fresh, average at them."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=make_optimizer(config).init(params),
        # Copied: where `params` come from outside a compiled function, one buffer would be two
        # leaves, and could not be donated.
        ema=jax.tree.map(jnp.copy, params),
    )


def abstract_state(config: ExperimentConfig) -> TrainState:
    """Shapes and dtypes of the state: the one tree that init, sharding and restore share."""
    params = trained_part(config, abstract_network(config))
    return jax.eval_shape(lambda params: state_of_params(config, params), params)


def map_parameters(
    config: ExperimentConfig,
    function: Callable[..., Any],
    state: TrainState,
    *rest: PyTree,
    otherwise: Callable[[Any], Any],
) -> TrainState:
    """`function` on every parameter of the state, its moments and its average.

    Args:
        config: the experiment.
        function: of a leaf and of the leaves of `rest` that belong to its parameter.
        state: the state, or its shapes.
        rest: trees like the parameters.
        otherwise: of every other leaf.
    """
    opt_state = optax.tree.map_params(
        make_optimizer(config),
        function,
        state.opt_state,
        *rest,
        transform_non_params=otherwise,
    )
    parts = (
        otherwise(state.step),
        jax.tree.map(function, state.params, *rest),
        opt_state,
        jax.tree.map(function, state.ema, *rest),
    )
    # Not through the constructor, which accepts arrays only.
    return jax.tree.unflatten(jax.tree.structure(state), jax.tree.leaves(parts))


def ema_decay_at(step: Integer[Array, ""], decay: float) -> Float[Array, ""]:
    """β of the average at the update that makes `step`."""
    count = step.astype(jnp.float32)
    return jnp.minimum(decay, (1.0 + count) / (10.0 + count))


def apply_gradients(state: TrainState, gradients: PyTree, config: ExperimentConfig) -> TrainState:
    """One update. The new step, parameters, optimizer state and average leave together."""
    # Optax raises float betas to the integer count, which strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        updates, opt_state = make_optimizer(config).update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    step = state.step + 1
    decay = ema_decay_at(step, config.optimizer.ema_decay)
    ema = jax.tree.map(lambda mean, new: mean + (1.0 - decay) * (new - mean), state.ema, params)
    return TrainState(step=step, params=params, opt_state=opt_state, ema=ema)
