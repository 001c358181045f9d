"""Learning where photographs are focused from photographs alone: no focus labels, no blur labels.

Of a photograph P there are the same view A in focus everywhere, its relative disparity d and what
EXIF says of the camera. The focus distance transformer (`models.focus_transformer`) says the
attention a over depths and the length σ; the lens (`optics.exif`, `optics.defocus`) photographs A:

    (1) P_δ = lens blur(A, d; focus δ, K(EXIF, σ))
    (2) e_δ = (|P_δ − P|² + |∂(P_δ − P)|²) / (|A − P|² + |∂(A − P)|² + ε)

compared in sRGB-encoded values, ∂ differences to the right and below. The denominator, the error of
an image without blur, makes photographs of much and of little blur count alike; ε is the rounding
of 8 bits, below which there is nothing to learn.

P_δ is sharp where δ is right, and e_δ hardly says in which direction to go where it is wrong. So
the loss is not taken at the mean focus alone: C depths c_k of the scene are chosen as far from each
other as possible, each token's attention is given to its two neighbours among them in proportion,
which keeps the mean, and with p_k what c_k gets in sum,

    (3) 'likelihood'   L = −τ log Σ p_k exp(−e_k / τ)
        'expected'     L = Σ p_k e_k
        'mean'         L = e_δ,  δ = Σ aₙ dₙ

(3) is a mixture's likelihood: it is least where p is the probability that c_k is what is in focus,
given what the network sees; with the others all of the attention goes to the best guess. All forms
are differentiable in A, d, a and σ, through the lens.

Slopes of a rendering cost more than the rendering. Those of (3) by anything x behind the lens are

    (4) ∂L/∂x = Σ r_k ∂e_k/∂x,     r_k = p_k exp(−e_k / τ) / Σ …   ('expected': r_k = p_k)

so one depth of each photograph is drawn with the probabilities r_k and its ∂e/∂x stands for the
sum: right on average, with C renderings and one more that is differentiated. Slopes by the
attention, which need no renderings', are those of all depths.

No hidden truth enters: a batch has the photograph, A, d and EXIF, and the loader cannot read more.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from bokeh_jax.errors import InvalidInput
from bokeh_jax.models import focus_transformer
from bokeh_jax.models.config import check_at_least, check_between, check_choice
from bokeh_jax.models.focus_transformer import FOCUS, FocusAnswer, FocusConfig
from bokeh_jax.objectives.mirror import mirrored
from bokeh_jax.optics import Exif, linear_to_srgb, render_defocus, srgb_to_linear

Form = Literal["likelihood", "expected", "mean"]
FORMS: tuple[Form, ...] = ("likelihood", "expected", "mean")

# Mean squared rounding of two images of 8 bits, 2 (1/255)² / 12, and as much for differences.
_ROUNDING = 2 * 2.6e-6
_DISPARITY_ONE = 65535.0


@dataclasses.dataclass(frozen=True)
class ExifObjectiveConfig:
    """Settings of the objective.

    Attributes:
        form: equation (3).
        num_candidates: C.
        temperature: τ.
        max_blur_fraction: largest radius that is rendered, over the width; a larger one is cut.
        flip_rate: share of the scenes that are seen in a mirror.

    Raises:
        InvalidInput: naming the field, its value and what is allowed.
    """

    form: Form = "likelihood"
    num_candidates: int = 5
    temperature: float = 0.1
    max_blur_fraction: float = 0.1
    flip_rate: float = 0.5

    def __post_init__(self) -> None:
        check_choice("form", self.form, FORMS)
        check_at_least("num_candidates", self.num_candidates, 2)
        if not 0 < self.temperature <= 10:
            raise InvalidInput(f"temperature is {self.temperature}; allowed: above 0, up to 10")
        check_between("max_blur_fraction", self.max_blur_fraction, 0.005, 0.5)
        check_between("flip_rate", self.flip_rate, 0, 1)


def exif_defocus_loss(
    params: dict[str, Any],
    batch: dict[str, Any],
    keys: Key[Array, " b"],
    *,
    model: FocusConfig,
    objective: ExifObjectiveConfig,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Equation (3), the mean of a batch; pure.

    Args:
        params: has the transformer's under `FOCUS`.
        batch: `image` and `photograph` uint8 [b, h, w, 3], `disparity` uint16 [b, h, w], `camera`
            float32 [b, 3] as `Exif.from_fields` takes it.
        keys: one a scene.
        model: the transformer.
        objective: settings of this objective.

    Returns:
        (loss, parts): with the loss the mean error at the answered focus or of the candidates,
        `uncertainty`, and mean and deviation of log₂ σ.
    """
    image, photograph, disparity, exif = scenes_of(mirrored(batch, keys, objective.flip_rate))
    answer = answer_of(params, image, photograph, disparity, exif, model=model)
    draws = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
    loss, parts = reconstruction(
        answer, image, photograph, disparity, exif, draws, objective=objective
    )
    octaves = jnp.log2(answer.scale_m)
    return loss, {
        "loss": loss,
        **parts,
        "uncertainty": jnp.mean(answer.uncertainty),
        "scale_octaves": jnp.mean(octaves),
        "scale_spread": jnp.std(octaves),
    }


def scenes_of(
    batch: dict[str, Any],
) -> tuple[Float[Array, "b h w 3"], Float[Array, "b h w 3"], Float[Array, "b h w"], Exif]:
    """Image, photograph (sRGB-encoded, [0, 1]), disparity and EXIF of a batch.

    Args:
        batch: as `exif_defocus_loss` takes it.
    """
    image, photograph = (
        batch[name].astype(jnp.float32) / 255.0 for name in ("image", "photograph")
    )
    disparity = batch["disparity"].astype(jnp.float32) / _DISPARITY_ONE
    return image, photograph, disparity, Exif.from_fields(batch["camera"])


def answer_of(
    params: dict[str, Any],
    image: Float[Array, "b h w 3"],
    photograph: Float[Array, "b h w 3"],
    disparity: Float[Array, "b h w"],
    exif: Exif,
    *,
    model: FocusConfig,
) -> FocusAnswer:
    """What the transformer says, shown what its config says; arguments as `scenes_of` gives."""
    seen = image if model.sees == "scene" else photograph
    # Already encoded: `to_model_range` would encode it once more.
    return focus_transformer.apply(model, params[FOCUS], 2.0 * seen - 1.0, disparity, exif)


def reconstruction(
    answer: FocusAnswer,
    image: Float[Array, "b h w 3"],
    photograph: Float[Array, "b h w 3"],
    disparity: Float[Array, "b h w"],
    exif: Exif,
    keys: Key[Array, " b"],
    *,
    objective: ExifObjectiveConfig,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Equation (3) of an answer, and the mean error `defocus_error` of what it stands for.

    Args:
        answer: of the transformer.
        image, photograph, disparity, exif: as `scenes_of` gives them.
        keys: one a scene, of the depth whose slopes are drawn.
        objective: settings.
    """

    def errors_at(depths: Array, scale_m: Array, scene: tuple[Array, Array, Array]) -> Array:
        return lens_errors(
            *scene, exif, depths, scale_m, max_blur_fraction=objective.max_blur_fraction
        )

    scene = image, photograph, disparity
    if objective.form == "mean":
        loss = jnp.mean(errors_at(answer.focus_disparity[:, None], answer.scale_m, scene))
        return loss, {"defocus_error": loss}
    depths = candidates(answer.token_disparity, objective.num_candidates)
    shares = shared_out(answer.attention, answer.token_disparity, depths)
    errors = errors_at(*jax.lax.stop_gradient((depths, answer.scale_m, scene)))
    expected = jnp.mean(jnp.sum(shares * errors, axis=1))
    loss, logits = expected, jnp.log(shares + 1e-9)
    if objective.form == "likelihood":
        logits = logits - errors / objective.temperature
        loss = -objective.temperature * jnp.mean(jax.nn.logsumexp(logits, axis=1))
    chosen = jax.vmap(jax.random.categorical)(keys, logits)[:, None]
    chosen_depths = jnp.take_along_axis(depths, chosen, axis=1)
    own = jnp.mean(errors_at(chosen_depths, answer.scale_m, scene))
    # Slopes without a value.
    return loss + own - jax.lax.stop_gradient(own), {"defocus_error": expected}


def lens_errors(
    image: Float[Array, "b h w 3"],
    photograph: Float[Array, "b h w 3"],
    disparity: Float[Array, "b h w"],
    exif: Exif,
    depths: Float[Array, "b k"],
    scale_m: Float[Array, " b"],
    *,
    max_blur_fraction: float,
) -> Float[Array, "b k"]:
    """Equation (2) for each of several depths in focus."""
    scales = jnp.broadcast_to(scale_m[:, None], depths.shape)
    taken = lens_photographs(
        image, disparity, exif, depths, scales, max_blur_fraction=max_blur_fraction
    )
    error = jax.vmap(squared_error, in_axes=(1, None), out_axes=1)(taken, photograph)
    without_blur = squared_error(image, photograph)
    return error / (without_blur + _ROUNDING)[:, None]


def lens_photographs(
    image: Float[Array, "b h w 3"],
    disparity: Float[Array, "b h w"],
    exif: Exif,
    depths: Float[Array, "b k"],
    scale_m: Float[Array, "b k"],
    *,
    max_blur_fraction: float,
) -> Float[Array, "b k h w 3"]:
    """P_δ of equation (1) for each of several depths in focus, sRGB-encoded."""
    count, width_px = depths.shape[1], image.shape[2]

    def repeated(array: Array) -> Array:
        return jnp.repeat(array, count, axis=0)

    lens = jax.tree.map(repeated, exif).lens(depths.reshape(-1), scale_m.reshape(-1), width_px)
    taken = render_defocus(
        repeated(srgb_to_linear(image)),
        repeated(disparity),
        lens,
        max_radius_px=max_blur_fraction * width_px,
    )
    return linear_to_srgb(taken).reshape(*depths.shape, *image.shape[1:])


def squared_error(
    ours: Float[Array, "b h w c"], theirs: Float[Array, "b h w c"]
) -> Float[Array, " b"]:
    """|x|² + |∂x|² of the difference, means over an image."""
    error = ours - theirs
    parts = (error, jnp.diff(error, axis=1), jnp.diff(error, axis=2))
    return sum((jnp.mean(jnp.square(part), axis=(1, 2, 3)) for part in parts), jnp.float32(0.0))


def candidates(depths: Float[Array, "b n"], count: int) -> Float[Array, "b k"]:
    """The nearest depth, the farthest, then each time the one farthest from all before; ascending.

    Every surface of a scene has one near, however small the surface is, once there are enough.
    """
    chosen = [jnp.max(depths, axis=1), jnp.min(depths, axis=1)]
    apart = jnp.minimum(*(jnp.abs(depths - depth[:, None]) for depth in chosen))
    for _ in range(count - 2):
        index = jnp.argmax(apart, axis=1)[:, None]
        chosen.append(jnp.take_along_axis(depths, index, axis=1)[:, 0])
        apart = jnp.minimum(apart, jnp.abs(depths - chosen[-1][:, None]))
    return jnp.sort(jnp.stack(chosen, axis=1), axis=1)


def shared_out(
    attention: Float[Array, "b n"], depths: Float[Array, "b n"], candidates: Float[Array, "b k"]
) -> Float[Array, "b k"]:
    """p: each token's attention on the two candidates around it, so that Σ p_k c_k = Σ aₙ dₙ."""
    low, high = candidates[:, None, :-1], candidates[:, None, 1:]
    # Candidates may be equal where a scene has few depths.
    passed = jnp.clip((depths[:, :, None] - low) / jnp.maximum(high - low, 1e-6), 0.0, 1.0)
    ends = jnp.ones_like(passed[..., :1])
    weights = jnp.concatenate((ends, passed), axis=-1) - jnp.concatenate(
        (passed, 0.0 * ends), axis=-1
    )
    return jnp.einsum("bn,bnk->bk", attention, weights)
