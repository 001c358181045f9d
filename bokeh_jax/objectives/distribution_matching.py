"""A generator, a focus transformer and a lens learn from photographs with EXIF, without pairs.

Of a photograph in the batch only its caption c and its EXIF e are used to make another one, with
the chain of arXiv 2510.06215 ("Fine-grained Defocus Blur Control for Generative Image Models"):

    (1) A = G_θ(z, c)                                few steps (`few_steps`), knows no lens
    (2) d = n(D(A)),  n(y) = (y − min y)/(max y − min y)          frozen depth network D
    (3) a, σ = focus transformer_φ(A, d, e);  δ is one of A's depths, drawn with a's shares
    (4) P = lens blur(A, d; focus δ, K(e, σ))        `optics.exif`, `optics.defocus`
    (5) X, e' = A, deep(e)  for a share of the examples;   P, e  for the others

P is never compared with the photograph. Its distribution given (c, e) is brought to that of
photographs by DMD2 (Yin et al. 2024, arXiv 2405.14867; DMD: arXiv 2311.18828). A frozen teacher
knows real photographs given caption and EXIF (task 'generate' with `exif_tokens`), the fake score
μ_ψ, which starts as the teacher, learns what X are now. At X_t = (1 − t) X + t ε:

    (6) g = (x̂_fake(X_t) − x̂_real(X_t)) / mean |X − x̂_real|      mean over an image
    (7) L_match = ½ mean (X − sg[X − g])²            ∂L/∂X = g / numbers of X
    (8) L_fake  = mean ‖x̂_fake(X_s) − sg[X]‖² · weight(s)        `generate`, equation (3)

(7) is the gradient of KL(p_fake ‖ p_real) of noised images up to a positive weight, as a score is
(x̂ − x_t/(1 − t)) times a positive number of t. With R a photograph of the batch and its EXIF, an
adversarial head H_ω (`models.photo_head`) is shown R, and photographs P_k of A at every depth:

    (9)  L_head, L_focus                             `focus_matching`, equations (2) and (4)
    (10) L_adv  = mean softplus(−H(P))

**Which gradient moves what.** A choice among depths has no slope, and a comes from L_focus alone.
What is continuous, A and σ, gets slopes of (7) and (10) through the lens, and σ of L_focus too.

**What keeps A sharp.** Nothing in (1) to (4) says that A is: G could draw the blur itself and σ
grow until the lens does nothing. So by (5) a share `deep_rate` of the examples skips the lens, and
A itself has to be a photograph of the camera deep(e) = (f₃₅, full frame, f/`deep_f_number`): as
much in view, all of it in focus. (6) to (8) are unchanged; teacher and fake score are told e'. The
head sees photographs with the batch's own EXIF alone: of real ones with e' there are not as many.

**Disparity** goes to the head beside the photograph: D's of each, real or made, so that both are
what D makes of blur; with `scenes` 'given' the dataset's, of the scene that either is of.

**Less than all of it.** With `scenes` 'frozen' the generator stays as it was and the focus
transformer alone is trained through the lens. With 'given' A and d are not made at all: they are
the view in focus everywhere and the disparity that the dataset has, still without a comparison of P
with any photograph. What is left of the chain then is (3), (4) and the matching. With v = 0 neither
teacher nor fake score is asked: the head alone says what photographs look like. With u = w = 0 it
is not asked.

**One backward pass.** L = v L_match + w L_adv + u L_focus + L_fake + L_head, where gradients stop
at parameters as well as at images, so that

    θ  gets its own from L_match and L_adv,  φ from these and L_focus,
    ψ  from L_fake,  ω from L_head,  D and teacher none.

**Two time scales.** The fake score has to follow the generator. DMD2 updates it five times for each
update of the generator; here all are updated together, and the generator's parts (θ, φ) at a
learning rate `fake_updates` times smaller (`training.state`): while the generator goes as far as
in one update of its own, the fake score is updated so many times; no state counts steps, and every
step is the same program. A gradient that is 0 at other steps would not do it: Adam's moments move
parameters on.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from bokeh_jax import diffusion
from bokeh_jax.models.codec import encode
from bokeh_jax.models.photo_head import HEAD
from bokeh_jax.objectives.exif_defocus import answer_of
from bokeh_jax.objectives.focus_matching import focus_loss, head_logits, head_loss, proposed
from bokeh_jax.objectives.generate import (
    CAMERA,
    GenerationConfig,
    denoising_loss,
    predicted_samples,
    to_model_range_of_bytes,
    told,
)
from bokeh_jax.objectives.lens_chain import Taken, asked_depth, photographs_made
from bokeh_jax.objectives.matching_config import MatchingConfig, Networks
from bokeh_jax.objectives.mirror import mirrored
from bokeh_jax.optics import Exif
from bokeh_jax.simulation import SimulationConfig

PyTree = Any
Parts = dict[str, Float[Array, ""]]
# Parts of the network's tree that hold a whole generator of photographs each.
TEACHER, FAKE = "teacher", "fake"

# Of (6): differences below a hundredth of an 8-bit step are none.
_LEAST_DIFFERENCE = 1e-4
_LEAST_TIME = 0.02


def teacher_settings(generation: GenerationConfig) -> GenerationConfig:
    """Of teacher and fake score: the generator's, for photographs with EXIF."""
    return dataclasses.replace(generation, images="photographs", exif_tokens=True)


def distribution_matching_loss(
    params: PyTree,
    batch: dict[str, Any],
    keys: Key[Array, " b"],
    *,
    networks: Networks,
    matching: MatchingConfig,
    simulation: SimulationConfig,
) -> tuple[Float[Array, ""], Parts]:
    """L of a batch of photographs; pure.

    Args:
        params: the generator's parameters (as task 'generate' has them), and under `DEPTH`,
            `FOCUS`, `TEACHER`, `FAKE` and `HEAD` those of the other parts.
        batch: captions, `photograph` uint8 [b, h, w, 3] and `camera` float32 [b, 3]. What else a
            batch has of a scene, `image` and `disparity`, is not read, but with `scenes` 'given'.
        keys: one typed key an example; every draw comes from it.
        networks: what the parameters are of.
        matching: settings.
        simulation: how often photographs are mirrored.

    Returns:
        (L, its parts); with them the mean blur, the focus' uncertainty and mean log₂ σ, which tell
        of a lens that is given up.
    """

    batch = mirrored(batch, _stream(keys, 6), simulation.augment.flip_rate)
    taken = photographs_made(params, batch, _stream(keys, 0), networks=networks, matching=matching)
    match = fake = error = jnp.float32(0.0)
    if matching.score_weight:
        match, fake, error = score_losses(
            params, batch, taken, _stream(keys, 1), networks=networks, matching=matching
        )
    head, adversarial, focus = head_losses(
        params, batch, taken, _stream(keys, 7), networks=networks, matching=matching
    )
    judged = matching.score_weight * match + matching.adversarial_weight * adversarial
    judged += matching.focus.weight * focus
    loss = judged + fake + head
    return loss, {
        "loss": loss,
        "matching_loss": match,
        "adversarial_loss": adversarial,
        "fake_loss": fake,
        "fake_error": error,
        "head_loss": head,
        "focus_loss": focus,
        "blur_px": jnp.mean(taken.radius_px),
        "uncertainty": jnp.mean(taken.answer.uncertainty),
        "scale_octaves": jnp.mean(jnp.log2(taken.answer.scale_m)),
    }


def score_losses(
    params: PyTree,
    batch: dict[str, Any],
    taken: Taken,
    keys: Key[Array, " b"],
    *,
    networks: Networks,
    matching: MatchingConfig,
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """(L_match, L_fake, mean ‖x̂_fake − X‖²), by (5) to (8); arguments as of `head_losses`."""

    still = jax.lax.stop_gradient(params)
    deep = jax.vmap(lambda key: jax.random.bernoulli(key, matching.deep_rate))(_stream(keys, 0))
    camera = jnp.where(deep[:, None], deep_camera(batch[CAMERA], matching), batch[CAMERA])
    shown = jnp.where(deep[:, None, None, None], taken.scene, taken.photograph)
    x = encode(networks.codec, still, shown)
    asked = batch | {CAMERA: camera}
    match = matching_loss(
        x,
        score(still[TEACHER], asked, networks=networks, guidance=matching.teacher_guidance),
        score(still[FAKE], asked, networks=networks),
        drawn_times(_stream(keys, 1), matching),
        _noise(_stream(keys, 2), x),
    )
    times, noise = drawn_times(_stream(keys, 3), matching), _noise(_stream(keys, 4), x)
    return match, *fake_loss(params[FAKE], x, asked, times, noise, networks)


def deep_camera(camera: Float[Array, "b 3"], matching: MatchingConfig) -> Float[Array, "b 3"]:
    """deep(e): a full frame that shows as much, stopped down; fields as of `Exif.from_fields`."""
    equivalent_mm = camera[:, 1]
    f_number = jnp.full_like(equivalent_mm, matching.deep_f_number)
    return jnp.stack((equivalent_mm, equivalent_mm, f_number), axis=-1)


def score(
    params: PyTree, asked: dict[str, Any], *, networks: Networks, guidance: float = 1.0
) -> diffusion.Predictor:
    """x̂ of teacher or fake score, told of captions and cameras."""
    generation = teacher_settings(networks.generation)

    def predictor(given: Float[Array, " b"] | None) -> diffusion.Predictor:
        known = told(params, asked, text=networks.text, generation=generation, given=given)
        return lambda x, times: predicted_samples(
            params, x, times, known, model=networks.model, generation=generation
        )

    if guidance == 1.0:
        return predictor(None)
    return diffusion.guided(predictor(None), predictor(jnp.zeros(len(asked[CAMERA]))), guidance)


def matching_loss(
    x: Float[Array, "b *d"],
    real: diffusion.Predictor,
    fake: diffusion.Predictor,
    times: Float[Array, " b"],
    noise: Float[Array, "b *d"],
) -> Float[Array, ""]:
    """Equation (7): its gradient with respect to `x` is (6) over the numbers in `x`.

    Args:
        x: what was made.
        real: x̂ of the teacher.
        fake: x̂ of what is made.
        times: t, above 0.
        noise: ε.
    """
    still = jax.lax.stop_gradient(x)
    x_t = diffusion.interpolate(still, noise, times)
    wanted = real(x_t, times)
    axes = tuple(range(1, x.ndim))
    difference = jnp.mean(jnp.abs(still - wanted), axis=axes, keepdims=True)
    gradient = (fake(x_t, times) - wanted) / jnp.maximum(difference, _LEAST_DIFFERENCE)
    target = jax.lax.stop_gradient(still - gradient)
    return 0.5 * jnp.mean(jnp.square(x - target))


def fake_loss(
    params: PyTree,
    x: Float[Array, "b r s c"],
    asked: dict[str, Any],
    times: Float[Array, " b"],
    noise: Float[Array, "b r s c"],
    networks: Networks,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Equation (8), and the mean of ‖x̂ − X‖²."""
    truth = jax.lax.stop_gradient(x)
    samples = score(params, asked, networks=networks)(
        diffusion.interpolate(truth, noise, times), times
    )
    return denoising_loss(samples, truth, times, networks.generation)


def head_losses(
    params: PyTree,
    batch: dict[str, Any],
    taken: Taken,
    keys: Key[Array, " b"],
    *,
    networks: Networks,
    matching: MatchingConfig,
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """(L_head, L_adv, L_focus), equations (9) and (10); all 0 where nothing asks the head.

    Args:
        params: the network's.
        batch: as of `distribution_matching_loss`.
        taken: of that batch.
        keys: one an example.
        networks: of the parameters.
        matching: settings.
    """
    if not (matching.adversarial_weight or matching.focus.weight):
        return jnp.float32(0.0), jnp.float32(0.0), jnp.float32(0.0)

    exif, still = Exif.from_fields(batch[CAMERA]), jax.lax.stop_gradient

    def depths_of(photographs: Float[Array, "b k h w 3"]) -> Float[Array, "b k h w"]:
        shape = photographs.shape[:-1]
        if matching.scenes == "given":
            return jnp.broadcast_to(taken.disparity[:, None], shape)
        flat = still(photographs).reshape(-1, *photographs.shape[2:])
        return asked_depth(params, 0.5 * (flat + 1.0), networks).reshape(shape)

    def logits(params: PyTree, photographs: Array, index: int) -> Float[Array, "b k"]:
        depths = depths_of(photographs)
        return head_logits(params, photographs, depths, exif, _stream(keys, index), networks.head)

    # A is not to become what the transformer is sure of.
    scene, disparity = still((0.5 * (taken.scene + 1.0), taken.disparity))
    answer = answer_of(params, scene, scene, disparity, exif, model=networks.focus)
    proposals = proposed(
        answer,
        scene,
        disparity,
        exif,
        _stream(keys, 0),
        config=matching.focus,
        max_blur_fraction=matching.max_blur_fraction,
    )
    real = to_model_range_of_bytes(batch["photograph"])[:, None]
    said = logits(params[HEAD], proposals.photograph, 1)
    head = head_loss(logits(params[HEAD], real, 2)[:, 0], said)
    focus = focus_loss(answer, proposals, said, matching.focus)
    adversarial = jnp.float32(0.0)
    if matching.adversarial_weight:
        drawn = logits(still(params[HEAD]), taken.photograph[:, None], 3)
        adversarial = jnp.mean(jax.nn.softplus(-drawn))
    return head, adversarial, focus


def drawn_times(keys: Key[Array, " b"], matching: MatchingConfig) -> Float[Array, " b"]:
    """Times, not nearer to 0 and 1 than 0.02."""
    drawn = jax.vmap(lambda key: diffusion.sample_time(matching.time, key))(keys)
    return _LEAST_TIME + (1.0 - 2.0 * _LEAST_TIME) * drawn


def _stream(keys: Key[Array, " b"], index: int) -> Key[Array, " b"]:
    """One of each example's independent streams of draws."""
    return jax.vmap(lambda key: jax.random.fold_in(key, index))(keys)


def _noise(keys: Key[Array, " b"], like: Float[Array, "b *d"]) -> Float[Array, "b *d"]:
    return jax.vmap(lambda key: jax.random.normal(key, like.shape[1:]))(keys)
