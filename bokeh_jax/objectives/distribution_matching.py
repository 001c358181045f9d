"""A generator, a focus transformer and a lens learn from photographs with EXIF, without pairs.

Of a photograph in the batch only its caption c and its EXIF e are used to make another one, with
the chain of arXiv 2510.06215 ("Fine-grained Defocus Blur Control for Generative Image Models"):

    (1) A = G_θ(z, c)                                few steps (`few_steps`), knows no lens
    (2) d = n(D(A)),  n(y) = (y − min y)/(max y − min y)          frozen depth network D
    (3) δ, σ = focus transformer_φ(A, d, e)
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
adversarial head H_ω (`models.photo_head`) on noised photographs, non-saturating:

    (9)  L_head = mean softplus(−H(R_t)) + mean softplus(H(sg[P]_t))
    (10) L_adv  = mean softplus(−H(P_t))

**What keeps A sharp.** Nothing in (1) to (4) says that A is: G could draw the blur itself and σ
grow until the lens does nothing. So by (5) a share `deep_rate` of the examples skips the lens, and
A itself has to be a photograph of the camera deep(e) = (f₃₅, full frame, f/`deep_f_number`): as
much in view, all of it in focus. (6) to (8) are unchanged; teacher and fake score are told e'. The
head sees P with the batch's own EXIF alone: of real ones with e' there are not as many.

**Less than all of it.** With `scenes` 'frozen' the generator stays as it was and the focus
transformer alone is trained through the lens. With 'given' A and d are not made at all: they are
the view in focus everywhere and the disparity that the dataset has, still without a comparison of P
with any photograph. What is left of the chain then is (3), (4) and the matching. With v = 0 neither
teacher nor fake score is asked: the head alone says what photographs look like.

**One backward pass.** L = v L_match + w L_adv + L_fake + L_head, where sg stops gradients at
parameters as well as at images, so that

    θ, φ  get theirs from L_match and L_adv,  ψ from L_fake,  ω from L_head,  D and teacher none.

**Two time scales.** The fake score has to follow the generator. DMD2 updates it five times for each
update of the generator; here all are updated together, and the generator's parts (θ, φ) at a
learning rate `fake_updates` times smaller (`training.state`): while the generator goes as far as
in one update of its own, the fake score is updated so many times; no state counts steps, and every
step is the same program. A gradient that is 0 at other steps would not do it: Adam's moments move
parameters on.
"""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from bokeh_jax import diffusion
from bokeh_jax.errors import InvalidInput
from bokeh_jax.models import CodecConfig, RefocusConfig
from bokeh_jax.models.byte_text import ByteTextConfig
from bokeh_jax.models.codec import decode, encode
from bokeh_jax.models.config import check_at_least, check_choice
from bokeh_jax.models.depth_anything import depth as depth_of
from bokeh_jax.models.depth_config import DepthConfig
from bokeh_jax.models.focus_transformer import FocusAnswer, FocusConfig
from bokeh_jax.models.photo_head import HEAD, HeadConfig, realness
from bokeh_jax.objectives.depth import DEPTH
from bokeh_jax.objectives.exif_defocus import answer_of, scenes_of
from bokeh_jax.objectives.few_steps import few_step_samples
from bokeh_jax.objectives.generate import (
    CAMERA,
    GenerationConfig,
    denoising_loss,
    photographs_taken,
    predicted_samples,
    told,
)
from bokeh_jax.objectives.refocus import PIXELS
from bokeh_jax.optics import Exif, linear_to_srgb, render_defocus, srgb_to_linear
from bokeh_jax.simulation import SimulationConfig

PyTree = Any
Parts = dict[str, Float[Array, ""]]
Scenes = Literal["made", "frozen", "given"]
SCENES: tuple[Scenes, ...] = ("made", "frozen", "given")
# Parts of the network's tree that hold a whole generator of photographs each.
TEACHER, FAKE = "teacher", "fake"

# Of (6): differences below a hundredth of an 8-bit step are none.
_LEAST_DIFFERENCE = 1e-4
# Of n: a depth network whose answer varies by less of its value sees no depth.
_LEAST_SPREAD = 1e-3
_LEAST_TIME = 0.02


@dataclasses.dataclass(frozen=True)
class MatchingConfig:
    """Settings of the objective.

    Attributes:
        scenes: 'made' by a generator that is trained, by a 'frozen' one, or 'given' by the dataset.
        num_steps: of the generator, 1 to 4.
        time: how t and s are drawn; all are brought to within 0.02 of the ends.
        teacher_guidance: how far the teacher's answer is guided by the caption; 1 is none, and the
            only value at which matching ends at the distribution of the photographs.
        score_weight: v; 0 turns teacher and fake score off.
        adversarial_weight: w; 0 turns the head off.
        deep_rate: share of the examples that skip the lens, equation (5).
        deep_f_number: of deep(e), on a full frame.
        fake_updates: the generator's parts learn so many times slower.
        max_blur_fraction: largest radius that is rendered, over the width; a larger one is cut.

    Raises:
        InvalidInput: naming the field, its value and what is allowed.
    """

    scenes: Scenes = "made"
    num_steps: int = 4
    time: diffusion.TimeSampling = dataclasses.field(
        default_factory=lambda: diffusion.TimeSampling(kind="uniform")
    )
    teacher_guidance: float = 1.0
    score_weight: float = 1.0
    adversarial_weight: float = 5e-3
    deep_rate: float = 0.25
    deep_f_number: float = 22.0
    fake_updates: int = 5
    max_blur_fraction: float = 0.1

    def __post_init__(self) -> None:
        check_choice("scenes", self.scenes, SCENES)
        if not 1 <= self.num_steps <= 4:
            raise InvalidInput(f"num_steps is {self.num_steps}; allowed: 1 to 4")
        check_at_least("fake_updates", self.fake_updates, 1)
        ranges = {
            "teacher_guidance": (0.0, 20.0),
            "score_weight": (0.0, 10.0),
            "adversarial_weight": (0.0, 10.0),
            "deep_rate": (0.0, 1.0),
            "deep_f_number": (8.0, 64.0),
            "max_blur_fraction": (0.005, 0.5),
        }
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise InvalidInput(f"{name} is {getattr(self, name)}; allowed: {low:g} to {high:g}")


@dataclasses.dataclass(frozen=True)
class Networks:
    """The parts that take part, all static.

    Attributes:
        model: the transformer of generator, teacher and fake score alike.
        text: encoder of prompts of each.
        generation: of the generator, 'all_in_focus'.
        depth: D.
        focus: the focus transformer; it sees the scene.
        head: H.
        codec: between images and what the transformers work on.
    """

    model: RefocusConfig
    text: ByteTextConfig
    generation: GenerationConfig
    depth: DepthConfig
    focus: FocusConfig
    head: HeadConfig
    codec: CodecConfig = PIXELS


class Taken(NamedTuple):
    """Equations (1) to (4); images in the models' range.

    Attributes:
        scene: A.
        disparity: d.
        answer: the focus transformer's.
        photograph: P.
        radius_px: mean radius of the blur.
    """

    scene: Float[Array, "b h w 3"]
    disparity: Float[Array, "b h w"]
    answer: FocusAnswer
    photograph: Float[Array, "b h w 3"]
    radius_px: Float[Array, " b"]


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
            batch has of a scene is not read, but with `scenes` 'given'.
        keys: one typed key an example; every draw comes from it.
        networks: what the parameters are of.
        matching: settings.
        simulation: how often photographs are mirrored.

    Returns:
        (L, its parts); with them the mean blur, the focus' uncertainty and mean log₂ σ, which tell
        of a lens that is given up.
    """

    def stream(index: int) -> Key[Array, " b"]:
        return jax.vmap(lambda key: jax.random.fold_in(key, index))(keys)

    still = jax.lax.stop_gradient(params)
    taken = photographs_made(params, batch, stream(0), networks=networks, matching=matching)
    deep = jax.vmap(lambda key: jax.random.bernoulli(key, matching.deep_rate))(stream(1))
    camera = jnp.where(deep[:, None], deep_camera(batch[CAMERA], matching), batch[CAMERA])
    shown = jnp.where(deep[:, None, None, None], taken.scene, taken.photograph)
    x = encode(networks.codec, still, shown)
    match = fake = error = jnp.float32(0.0)
    if matching.score_weight:
        asked = batch | {CAMERA: camera}
        match = matching_loss(
            x,
            score(still[TEACHER], asked, networks=networks, guidance=matching.teacher_guidance),
            score(still[FAKE], asked, networks=networks),
            drawn_times(stream(2), matching),
            _noise(stream(3), x),
        )
        fake, error = fake_loss(
            params[FAKE], x, asked, drawn_times(stream(4), matching), _noise(stream(5), x), networks
        )
    real = encode(networks.codec, still, photographs_taken(batch, stream(6), simulation))
    made = encode(networks.codec, still, taken.photograph)
    times, noises = drawn_times(stream(7), matching), (_noise(stream(8), x), _noise(stream(9), x))
    head, adversarial = adversarial_losses(
        params[HEAD], real, made, batch[CAMERA], times, noises, networks.head
    )
    judged = matching.score_weight * match + matching.adversarial_weight * adversarial
    loss = judged + fake + head
    return loss, {
        "loss": loss,
        "matching_loss": match,
        "adversarial_loss": adversarial,
        "fake_loss": fake,
        "fake_error": error,
        "head_loss": head,
        "blur_px": jnp.mean(taken.radius_px),
        "uncertainty": jnp.mean(taken.answer.uncertainty),
        "scale_octaves": jnp.mean(jnp.log2(taken.answer.scale_m)),
    }


def photographs_made(
    params: PyTree,
    batch: dict[str, Any],
    keys: Key[Array, " b"],
    *,
    networks: Networks,
    matching: MatchingConfig,
    in_use: bool = False,
) -> Taken:
    """Equations (1) to (4) of a batch; arguments as of `distribution_matching_loss`."""
    exif = Exif.from_fields(batch[CAMERA])
    disparity = None
    if matching.scenes == "given":
        encoded, _, disparity, _ = scenes_of(batch)
        scene = 2.0 * encoded - 1.0
    else:
        size = batch["photograph"].shape[1:3]
        scene = made_scenes(
            params, batch, keys, size, networks=networks, matching=matching, in_use=in_use
        )
    return through_the_lens(params, scene, exif, disparity, networks=networks, matching=matching)


def made_scenes(
    params: PyTree,
    prompts: dict[str, Any],
    keys: Key[Array, " b"],
    size: tuple[int, int],
    *,
    networks: Networks,
    matching: MatchingConfig,
    in_use: bool = False,
) -> Float[Array, "b h w 3"]:
    """Equation (1), in the models' range.

    Values beyond it are cut, as in a file, and get their gradients as if they were not: else what
    is once too bright would never come back.

    Args:
        params: the generator's.
        prompts: as `told` takes them.
        keys: one an image.
        size: height and width, pixels.
        networks: of the parameters.
        matching: settings.
        in_use: all steps are taken; in training a random number of them.
    """
    model, generation = networks.model, networks.generation

    def predictor_of(params: PyTree) -> diffusion.Predictor:
        known = told(params, prompts, text=networks.text, generation=generation)
        return lambda x, times: predicted_samples(
            params, x, times, known, model=model, generation=generation
        )

    last = None
    if not in_use:
        ends = jax.vmap(lambda key: jax.random.fold_in(key, matching.num_steps))(keys)
        last = jax.vmap(lambda key: jax.random.randint(key, (), 0, matching.num_steps))(ends)
    cell = networks.codec.downsampling
    shape = (size[0] // cell, size[1] // cell, model.image_channels)
    samples = few_step_samples(
        predictor_of, params, keys, shape, num_steps=matching.num_steps, last=last
    )
    image = decode(networks.codec, jax.lax.stop_gradient(params), samples)
    return image + jax.lax.stop_gradient(jnp.clip(image, -1.0, 1.0) - image)


def through_the_lens(
    params: PyTree,
    scene: Float[Array, "b h w 3"],
    exif: Exif,
    disparity: Float[Array, "b h w"] | None = None,
    *,
    networks: Networks,
    matching: MatchingConfig,
) -> Taken:
    """Equations (2) to (4) of scenes A; differentiable in A and the focus transformer.

    `disparity` is d where it is known, and D is not asked.
    """
    encoded = 0.5 * (scene + 1.0)
    if disparity is None:
        answered = depth_of(networks.depth, jax.lax.stop_gradient(params[DEPTH]), encoded)
        disparity = relative(answered)
    # What it is shown as a photograph it does not look at: it sees the scene.
    answer = answer_of(params, encoded, encoded, disparity, exif, model=networks.focus)
    width_px = scene.shape[2]
    lens = exif.lens(answer.focus_disparity, answer.scale_m, width_px)
    most_px = matching.max_blur_fraction * width_px
    light = render_defocus(srgb_to_linear(encoded), disparity, lens, max_radius_px=most_px)
    radius_px = jnp.minimum(jnp.abs(lens.signed_radius_px(disparity)), most_px)
    return Taken(
        scene,
        disparity,
        answer,
        2.0 * linear_to_srgb(light) - 1.0,
        jnp.mean(radius_px, axis=(1, 2)),
    )


def relative(answer: Float[Array, "b h w"]) -> Float[Array, "b h w"]:
    """n of equation (2), image by image, as `inference.depth` does it; 0 where all is alike."""
    low, high = (limit(answer, axis=(1, 2), keepdims=True) for limit in (jnp.min, jnp.max))
    spread = jnp.maximum(high - low, _LEAST_SPREAD * jnp.abs(high))
    return (answer - low) / jnp.maximum(spread, 1e-6)


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


def adversarial_losses(
    params: PyTree,
    real: Float[Array, "b r s c"],
    made: Float[Array, "b r s c"],
    camera: Float[Array, "b 3"],
    times: Float[Array, " b"],
    noises: tuple[Float[Array, "b r s c"], Float[Array, "b r s c"]],
    config: HeadConfig,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(L_head, L_adv), equations (9) and (10), of real and made ones at the same times."""
    exif, still = Exif.from_fields(camera), jax.lax.stop_gradient
    real_t = diffusion.interpolate(still(real), noises[0], times)
    made_t = diffusion.interpolate(made, noises[1], times)

    def logits(params: PyTree, x_t: Array) -> Array:
        return realness(config, params, x_t, times, exif)

    head = jnp.mean(jax.nn.softplus(-logits(params, real_t)))
    head += jnp.mean(jax.nn.softplus(logits(params, still(made_t))))
    return head, jnp.mean(jax.nn.softplus(-logits(still(params), made_t)))


def drawn_times(keys: Key[Array, " b"], matching: MatchingConfig) -> Float[Array, " b"]:
    """Times, not nearer to 0 and 1 than 0.02."""
    drawn = jax.vmap(lambda key: diffusion.sample_time(matching.time, key))(keys)
    return _LEAST_TIME + (1.0 - 2.0 * _LEAST_TIME) * drawn


def _noise(keys: Key[Array, " b"], like: Float[Array, "b *d"]) -> Float[Array, "b *d"]:
    return jax.vmap(lambda key: jax.random.normal(key, like.shape[1:]))(keys)
