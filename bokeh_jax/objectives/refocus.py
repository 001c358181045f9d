"""The refocusing objective: rectified flow plus the stacking constraint.

For a scene with reference r and targets x_1..x_M (same aperture, different focus), one time t and
one noise ε shared by the M targets:

    (1) z   = ε                       or   r + σ ε            (`flow_source`)
    (2) x_t = (1 − t) x + t z         for every target
    (3) x̂   = guess + f(x_t, t, c)    sample prediction with the physics guide
        x̂   = f(x_t, t, c)            sample prediction without
        x̂   = x_t − t f(x_t, t, c)    velocity prediction
    (4) L_flow  = mean ‖x̂ − x‖²       or  mean ‖f − (z − x)‖² for velocity
    (5) L_stack = w(t) · mean ‖Σ_i w_i x̂_i − x_multi‖²
    (6) L = L_flow + λ L_stack

x_multi = Σ_i w_i x_i in pixels is the multi-focus photograph: the in-focus weights w_i blend the
truths of one aperture into one picture that is sharp in every chosen plane. (5) is the stacking
constraint of DiffCamera (arXiv 2509.26599); its λ and w(t) are not published and are settings.
Sharing t and ε over the targets is what makes the blend in (5) one of comparable predictions;
`target_noise='separate'` draws an ε of its own for each, at the same t, to see what that is worth.

With an autoencoder, all of these are latents; (5) then comes in three forms (`stacking`).

Dropped in training, so that inference may lack them: disparity (depth dropout), the camera (for
guidance), the reference's camera, the caption. Where disparity is given, it may be damaged
(`depth_noise`); the truth is photographed all the same. All are drawn per scene, so its M targets
are told the same.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from bokeh_jax import diffusion, models
from bokeh_jax.errors import InvalidInput
from bokeh_jax.models import CodecConfig, ConditionCache, Conditions, RefocusConfig
from bokeh_jax.models.codec import encode
from bokeh_jax.objectives.conditions import (
    build_conditions,
    encode_conditions,
    stored_conditions,
    to_model_range,
    with_text,
)
from bokeh_jax.objectives.stacking import StackSpace, blends, latent_blends, stacking_loss
from bokeh_jax.simulation import (
    DepthNoiseConfig,
    Pairs,
    SimulationConfig,
    damage_disparity,
    seen_through,
    simulate_pairs,
)

PyTree = Any
PIXELS = CodecConfig()
# Names by which a batch of stored latents is known.
LATENTS = frozenset({"multi", "guess", "cameras"})
# Conditions, truths [b, m, r, s, c], and what compares the blend of samples like them.
Examples = tuple[
    Conditions, Float[Array, "b m r s c"], Callable[[Array], tuple[Array, Array, Array]]
]


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """Settings of the objective.

    Attributes:
        prediction: what the network predicts.
        guide: give the network the lens blur's own answer, and start the sample prediction there.
            Off reproduces the paper.
        flow_source: the far end of the flow.
        source_noise: σ of the noise added to the reference, where that is the source.
        target_noise: whether the targets of a scene share their noise, or each has its own.
        time: how times are drawn.
        stacking_weight: λ; 0 turns the constraint off.
        stacking_time: w(t), 1 or 1 − t (favours low noise, where predictions are sharp).
        stack_space: where predictions are blended and compared, see `stacking`.
        depth_dropout_rate: share of scenes trained without disparity.
        camera_dropout_rate: share of scenes trained without the asked camera.
        reference_camera_dropout_rate: share of scenes whose reference camera is unknown.
        text_dropout_rate: share of scenes trained without their caption (`with_text`).
        depth_noise: how the disparity that the network is shown differs from the truth.
    """

    prediction: Literal["sample", "velocity"] = "sample"
    guide: bool = True
    flow_source: Literal["noise", "reference"] = "noise"
    source_noise: float = 0.1
    target_noise: Literal["shared", "separate"] = "shared"
    time: diffusion.TimeSampling = dataclasses.field(default_factory=diffusion.TimeSampling)
    stacking_weight: float = 0.5
    stacking_time: Literal["uniform", "low_noise"] = "uniform"
    stack_space: StackSpace = "latents"
    depth_dropout_rate: float = 0.1
    camera_dropout_rate: float = 0.1
    reference_camera_dropout_rate: float = 0.5
    text_dropout_rate: float = 0.1
    depth_noise: DepthNoiseConfig = dataclasses.field(default_factory=DepthNoiseConfig)

    def __post_init__(self):
        for told in ("depth", "camera", "reference_camera", "text"):
            if not 0.0 <= (rate := getattr(self, f"{told}_dropout_rate")) <= 1.0:
                raise ValueError(f"{told}_dropout_rate is {rate}; allowed: 0 to 1")
        for name in ("stacking_weight", "source_noise"):
            if getattr(self, name) < 0.0:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: 0 or more")


def predict(
    params: PyTree,
    x_t: Float[Array, "b h w c"],
    time: Float[Array, " b"],
    conditions: Conditions,
    *,
    model: RefocusConfig,
    objective: ObjectiveConfig,
    cache: ConditionCache | None = None,
) -> Float[Array, "b h w c"]:
    """What `objective.prediction` names, equation (3): the sample x̂, or the velocity.

    `cache` may hold what a network computes once for all times, as `models.apply` takes it.
    """
    raw = models.apply(model, params, x_t, time, conditions, cache)
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


def psnr_db(mean_square: Float[Array, ""]) -> Float[Array, ""]:
    """PSNR of values in [-1, 1], whose peak-to-peak is 2."""
    return 10.0 * jnp.log10(4.0 / jnp.maximum(mean_square, 1e-12))


def _draws(
    keys: Key[Array, " b"], shape: tuple[int, ...], objective: ObjectiveConfig
) -> tuple[Float[Array, "n h w c"], Float[Array, " b"]]:
    """Noise of every target (`shape` is [b, m, h, w, c], n is b · m) and time of every scene."""
    count = shape[1]
    if objective.target_noise == "separate":
        drawn = jax.vmap(lambda key: jax.random.normal(key, shape[1:]))(_stream(keys, 4))
        noise = drawn.reshape(-1, *shape[2:])
    else:
        drawn = jax.vmap(lambda key: jax.random.normal(key, shape[2:]))(_stream(keys, 4))
        noise = jnp.repeat(drawn, count, axis=0)
    times = jax.vmap(lambda key: diffusion.sample_time(objective.time, key))(_stream(keys, 5))
    return noise, times


def _flow_loss(
    predicted: Float[Array, "n h w c"],
    truth: Float[Array, "n h w c"],
    source: Float[Array, "n h w c"],
    x_t: Float[Array, "n h w c"],
    times: Float[Array, " n"],
    objective: ObjectiveConfig,
) -> tuple[Float[Array, ""], Float[Array, "n h w c"]]:
    """Equation (4), and the predicted samples x̂."""
    if objective.prediction == "velocity":
        loss = jnp.mean((predicted - diffusion.velocity(truth, source)) ** 2)
        return loss, diffusion.sample_from_velocity(x_t, predicted, times)
    return jnp.mean((predicted - truth) ** 2), predicted


def photographed(
    batch: dict[str, Any],
    keys: Key[Array, " b"],
    *,
    simulation: SimulationConfig,
    objective: ObjectiveConfig,
) -> tuple[Pairs, Pairs]:
    """The pairs of a scene batch, and the same `as_known`."""
    pairs = simulate_pairs(batch, _stream(keys, 0), simulation)
    return pairs, as_known(pairs, _stream(keys, 6), objective.depth_noise)


def what_is_given(
    keys: Key[Array, " b"], objective: ObjectiveConfig
) -> dict[str, Float[Array, " b"]]:
    """0 for what a scene is trained without: its disparity, the asked camera, the reference's."""
    return {
        "disparity_given": _bernoulli(_stream(keys, 1), objective.depth_dropout_rate),
        "camera_given": _bernoulli(_stream(keys, 2), objective.camera_dropout_rate),
        "reference_camera_given": _bernoulli(
            _stream(keys, 3), objective.reference_camera_dropout_rate
        ),
    }


def simulate(
    batch: dict[str, Any],
    keys: Key[Array, " b"],
    *,
    simulation: SimulationConfig,
    objective: ObjectiveConfig,
) -> tuple[Pairs, Conditions]:
    """All that a step makes of its scenes before the network: photographs and what it is told."""
    pairs, known = photographed(batch, keys, simulation=simulation, objective=objective)
    return pairs, pair_conditions(
        known,
        **what_is_given(keys, objective),
        objective=objective,
        max_radius_px=simulation.max_radius_px(pairs.disparity.shape[2]),
    )


def _encoded_examples(
    params: PyTree,
    pairs: Pairs,
    conditions: Conditions,
    keys: Key[Array, " b"],
    *,
    objective: ObjectiveConfig,
    codec: CodecConfig,
) -> Examples:
    """Simulated pairs in what the network works on."""
    targets = to_model_range(pairs.targets)
    references = to_model_range(pairs.reference)
    conditions = encode_conditions(
        conditions, references, params, codec=codec, guide=objective.guide
    )
    flat = targets.reshape(-1, *targets.shape[2:])
    flat = encode(codec, params, flat, jnp.repeat(keys, targets.shape[1]))
    truths = flat.reshape(*targets.shape[:2], *flat.shape[1:])

    def blend(samples: Float[Array, "b m r s c"]) -> tuple[Array, Array, Array]:
        space = objective.stack_space
        return blends(params, samples, truths, targets, pairs.weights, codec, space)

    return conditions, truths, blend


def _stored_examples(
    batch: dict[str, Any], keys: Key[Array, " b"], objective: ObjectiveConfig
) -> Examples:
    """Latents that were made before training."""
    if objective.stack_space == "pixels":
        raise InvalidInput(
            "stack_space is 'pixels'; allowed with stored latents: latents, blended_latents"
        )
    given = what_is_given(keys, objective)
    conditions = stored_conditions(batch, **given, guide=objective.guide)
    truths, multi, weights = (
        jnp.asarray(batch[name]).astype(jnp.float32) for name in ("targets", "multi", "weights")
    )
    wanted = multi if objective.stack_space == "latents" else None
    return conditions, truths, lambda samples: latent_blends(samples, truths, wanted, weights)


def refocus_loss(
    params: PyTree,
    batch: dict[str, Any],
    keys: Key[Array, " b"],
    *,
    model: RefocusConfig,
    simulation: SimulationConfig,
    objective: ObjectiveConfig,
    codec: CodecConfig = PIXELS,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Equation (6) of one scene batch; pure.

    Args:
        params: the network's parameters, the codec's among them.
        batch: scene batch (docs/architecture.md); where it holds `simulated`, the answer of
            `simulate`, that is taken in place of simulating (`bokeh-jax plan` asks what the network
            alone needs). Latents of `make_latents` are taken in place of scenes, too.
        keys: one typed key a scene, [b]; every draw of a scene comes from its key.
        model: the network.
        simulation: frame and cameras.
        objective: settings of this objective.
        codec: between photographs and what the network works on.

    Returns:
        (loss, parts); `sample_psnr_db` and `guess_psnr_db` compare x̂ and the guess with the truth,
        in what the network works on (of latents, too, 2 is taken for the peak).
    """
    if set(batch) >= LATENTS:
        conditions, truths, blend = _stored_examples(batch, keys, objective)
    else:
        if "simulated" in batch:
            pairs, conditions = batch["simulated"]
        else:
            pairs, conditions = simulate(batch, keys, simulation=simulation, objective=objective)
        conditions, truths, blend = _encoded_examples(
            params, pairs, conditions, _stream(keys, 7), objective=objective, codec=codec
        )
    text_given = _bernoulli(_stream(keys, 8), objective.text_dropout_rate)
    conditions = with_text(conditions, batch, model, text_given)
    count, flat = truths.shape[1], truths.reshape(-1, *truths.shape[2:])
    noise, times = _draws(keys, truths.shape, objective)
    shared_times = jnp.repeat(times, count)
    source = diffusion.source(
        objective.flow_source, conditions.reference, noise, objective.source_noise
    )
    x_t = diffusion.interpolate(flat, source, shared_times)
    predicted = predict(params, x_t, shared_times, conditions, model=model, objective=objective)
    flow_loss, samples = _flow_loss(predicted, flat, source, x_t, shared_times, objective)
    time_weight = jnp.ones_like(times) if objective.stacking_time == "uniform" else 1.0 - times
    stacked = stacking_loss(*blend(samples.reshape(truths.shape)), time_weight)
    loss = flow_loss + objective.stacking_weight * stacked
    return loss, {
        "loss": loss,
        "flow_loss": flow_loss,
        "stacking_loss": stacked,
        "sample_psnr_db": psnr_db(jnp.mean((samples - flat) ** 2)),
        "guess_psnr_db": psnr_db(jnp.mean((conditions.guess - flat) ** 2)),
    }
