"""The refocusing objective: rectified flow plus the stacking constraint.

For a scene with reference r and targets x_1..x_M (same aperture, different focus), one time t and
one noise ε shared by the M targets:

    (1) z   = ε                       or   r + σ ε            (`flow_source`)
    (2) x_t = (1 − t) x + t z         for every target
    (3) x̂   = guess + f(x_t, t, c)    sample prediction with the physics guide
        x̂   = f(x_t, t, c)            sample prediction without
        x̂   = x_t − t f(x_t, t, c)    velocity prediction
    (4) L_flow  = mean ‖x̂ − x‖²       or  mean ‖f − (z − x)‖² for velocity
    (5) L_stack = w(t) · mean ‖Σ_i w_i x̂_i − Σ_i w_i x_i‖²
    (6) L = L_flow + λ L_stack

Σ_i w_i x_i is the multi-focus photograph x_multi: the in-focus weights w_i blend the truths of one
aperture into one picture that is sharp in every chosen plane. (5) is the stacking constraint of
DiffCamera (arXiv 2509.26599), here on pixels; its λ and w(t) are not published and are settings.
Sharing t and ε over the targets is what makes the blend in (5) one of comparable predictions.

Dropped in training, so that inference may lack them: disparity (depth dropout), the camera (for
guidance), the reference's camera. Where disparity is given, it may be damaged (`depth_noise`); the
truth is photographed all the same. All are drawn per scene, so its M targets are told the same.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from bokeh_jax import diffusion, models
from bokeh_jax.models import Conditions, RefocusConfig
from bokeh_jax.objectives.conditions import build_conditions, to_model_range
from bokeh_jax.optics import stack
from bokeh_jax.simulation import (
    DepthNoiseConfig,
    Pairs,
    SimulationConfig,
    damage_disparity,
    seen_through,
    simulate_pairs,
)

PyTree = Any


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """Settings of the objective.

    Attributes:
        prediction: what the network predicts.
        guide: give the network the lens blur's own answer, and start the sample prediction there.
            Off reproduces the paper.
        flow_source: the far end of the flow.
        source_noise: σ of the noise added to the reference, where that is the source.
        time: how times are drawn.
        stacking_weight: λ; 0 turns the constraint off.
        stacking_time: w(t), 1 or 1 − t (favours low noise, where predictions are sharp).
        depth_dropout_rate: share of scenes trained without disparity.
        camera_dropout_rate: share of scenes trained without the asked camera.
        reference_camera_dropout_rate: share of scenes whose reference camera is unknown.
        depth_noise: how the disparity that the network is shown differs from the truth.
    """

    prediction: Literal["sample", "velocity"] = "sample"
    guide: bool = True
    flow_source: Literal["noise", "reference"] = "noise"
    source_noise: float = 0.1
    time: diffusion.TimeSampling = dataclasses.field(default_factory=diffusion.TimeSampling)
    stacking_weight: float = 0.5
    stacking_time: Literal["uniform", "low_noise"] = "uniform"
    depth_dropout_rate: float = 0.1
    camera_dropout_rate: float = 0.1
    reference_camera_dropout_rate: float = 0.5
    depth_noise: DepthNoiseConfig = dataclasses.field(default_factory=DepthNoiseConfig)

    def __post_init__(self):
        for name in ("depth_dropout_rate", "camera_dropout_rate", "reference_camera_dropout_rate"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: 0 to 1")
        for name in ("stacking_weight", "source_noise"):
            if getattr(self, name) < 0.0:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: 0 or more")


def predict(
    params: PyTree,
    x_t: Float[Array, "b h w 3"],
    time: Float[Array, " b"],
    conditions: Conditions,
    *,
    model: RefocusConfig,
    objective: ObjectiveConfig,
) -> Float[Array, "b h w 3"]:
    """What `objective.prediction` names, equation (3): the sample x̂, or the velocity."""
    raw = models.apply(model, params, x_t, time, conditions)
    if objective.prediction == "sample" and objective.guide:
        return conditions.guess + raw
    return raw


def _bernoulli(keys: Key[Array, " b"], rate: float) -> Float[Array, " b"]:
    """1 with probability 1 − rate: the flag of what is kept."""
    return 1.0 - jax.vmap(lambda key: jax.random.bernoulli(key, rate))(keys).astype(jnp.float32)


def _stream(keys: Key[Array, " b"], index: int) -> Key[Array, " b"]:
    return jax.vmap(lambda key: jax.random.fold_in(key, index))(keys)


def as_known(pairs: Pairs, keys: Key[Array, " b"], noise: DepthNoiseConfig) -> Pairs:
    """The pairs with damaged disparity, and their cameras as told by one who has only that."""
    if noise.rate == 0:
        return pairs
    disparity = damage_disparity(pairs.disparity, keys, noise)
    cameras = seen_through(pairs.cameras, disparity)
    return dataclasses.replace(pairs, disparity=disparity, cameras=cameras)


def pair_conditions(
    pairs: Pairs,
    *,
    disparity_given: Float[Array, " b"],
    camera_given: Float[Array, " b"],
    reference_camera_given: Float[Array, " b"],
    objective: ObjectiveConfig,
    max_radius_px: float,
) -> Conditions:
    """Conditions of all targets of all scenes, flattened scene by scene to a batch of b · m."""
    count = pairs.targets.shape[1]

    def per_target(value: Array) -> Array:
        return jnp.repeat(value, count, axis=0)

    cameras = pairs.cameras
    flat_targets = jax.tree.map(lambda leaf: leaf.reshape(-1), cameras.targets)
    return build_conditions(
        per_target(pairs.reference),
        per_target(pairs.disparity),
        flat_targets,
        cameras.focus_points.reshape(-1, 2),
        disparity_given=per_target(disparity_given),
        camera_given=per_target(camera_given),
        reference_lens=jax.tree.map(per_target, cameras.reference),
        reference_camera_given=per_target(reference_camera_given),
        guide=objective.guide,
        max_radius_px=max_radius_px,
    )


def stacking_loss(
    predicted: Float[Array, "b m h w 3"],
    targets: Float[Array, "b m h w 3"],
    weights: Float[Array, "b m h w"],
    time_weight: Float[Array, " b"],
) -> Float[Array, ""]:
    """Equation (5)."""
    difference = stack(predicted, weights) - stack(targets, weights)
    return jnp.mean(time_weight * jnp.mean(difference**2, axis=(1, 2, 3)))


def _psnr_db(mean_square: Float[Array, ""]) -> Float[Array, ""]:
    """PSNR of values in [-1, 1], whose peak-to-peak is 2."""
    return 10.0 * jnp.log10(4.0 / jnp.maximum(mean_square, 1e-12))


def _shared_draws(
    keys: Key[Array, " b"], shape: tuple[int, ...], objective: ObjectiveConfig
) -> tuple[Float[Array, "b h w 3"], Float[Array, " b"]]:
    """Noise and time of every scene, which its targets (`shape` is [b, m, h, w, 3]) share."""
    noise = jax.vmap(lambda key: jax.random.normal(key, shape[2:]))(_stream(keys, 4))
    times = jax.vmap(lambda key: diffusion.sample_time(objective.time, key))(_stream(keys, 5))
    return noise, times


def _flow_loss(
    predicted: Float[Array, "n h w 3"],
    truth: Float[Array, "n h w 3"],
    source: Float[Array, "n h w 3"],
    x_t: Float[Array, "n h w 3"],
    times: Float[Array, " n"],
    objective: ObjectiveConfig,
) -> tuple[Float[Array, ""], Float[Array, "n h w 3"]]:
    """Equation (4), and the predicted samples x̂."""
    if objective.prediction == "velocity":
        loss = jnp.mean((predicted - diffusion.velocity(truth, source)) ** 2)
        return loss, diffusion.sample_from_velocity(x_t, predicted, times)
    return jnp.mean((predicted - truth) ** 2), predicted


def simulate(
    batch: dict[str, Any],
    keys: Key[Array, " b"],
    *,
    simulation: SimulationConfig,
    objective: ObjectiveConfig,
) -> tuple[Pairs, Conditions]:
    """All that a step makes of its scenes before the network: photographs and what it is told."""
    pairs = simulate_pairs(batch, _stream(keys, 0), simulation)
    return pairs, pair_conditions(
        as_known(pairs, _stream(keys, 6), objective.depth_noise),
        disparity_given=_bernoulli(_stream(keys, 1), objective.depth_dropout_rate),
        camera_given=_bernoulli(_stream(keys, 2), objective.camera_dropout_rate),
        reference_camera_given=_bernoulli(
            _stream(keys, 3), objective.reference_camera_dropout_rate
        ),
        objective=objective,
        max_radius_px=simulation.max_radius_px(pairs.disparity.shape[2]),
    )


def refocus_loss(
    params: PyTree,
    batch: dict[str, Any],
    keys: Key[Array, " b"],
    *,
    model: RefocusConfig,
    simulation: SimulationConfig,
    objective: ObjectiveConfig,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Equation (6) of one scene batch; pure.

    Args:
        params: the network's parameters.
        batch: scene batch (docs/architecture.md); where it holds `simulated`, the answer of
            `simulate`, that is taken in place of simulating (`bokeh-jax plan` asks what the network
            alone needs).
        keys: one typed key a scene, [b]; every draw of a scene comes from its key.
        model: the network.
        simulation: frame and cameras.
        objective: settings of this objective.

    Returns:
        (loss, parts); `sample_psnr_db` and `guess_psnr_db` compare x̂ and the guess with the truth.
    """
    if "simulated" in batch:
        pairs, conditions = batch["simulated"]
    else:
        pairs, conditions = simulate(batch, keys, simulation=simulation, objective=objective)
    targets = to_model_range(pairs.targets)
    flat = targets.reshape(-1, *targets.shape[2:])
    noise, times = _shared_draws(keys, targets.shape, objective)
    count = targets.shape[1]
    shared_times = jnp.repeat(times, count)
    source = diffusion.source(
        objective.flow_source,
        conditions.reference,
        jnp.repeat(noise, count, axis=0),
        objective.source_noise,
    )
    x_t = diffusion.interpolate(flat, source, shared_times)
    predicted = predict(params, x_t, shared_times, conditions, model=model, objective=objective)
    flow_loss, samples = _flow_loss(predicted, flat, source, x_t, shared_times, objective)
    time_weight = jnp.ones_like(times) if objective.stacking_time == "uniform" else 1.0 - times
    stacked = stacking_loss(samples.reshape(targets.shape), targets, pairs.weights, time_weight)
    loss = flow_loss + objective.stacking_weight * stacked
    return loss, {
        "loss": loss,
        "flow_loss": flow_loss,
        "stacking_loss": stacked,
        "sample_psnr_db": _psnr_db(jnp.mean((samples - flat) ** 2)),
        "guess_psnr_db": _psnr_db(jnp.mean((conditions.guess - flat) ** 2)),
    }
