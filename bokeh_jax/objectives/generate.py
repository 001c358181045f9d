"""Text to an all-in-focus image: rectified flow on what a scene looks like with no lens.

For the image x of a scene, in focus everywhere, its caption c, a time t and noise ε:

    (1) x_t = (1 − t) x + t ε
    (2) x̂   = f(x_t, t, c)                     sample prediction
        x̂   = x_t − t f(x_t, t, c)             velocity prediction
    (3) L   = mean ‖x̂ − x‖² / max(t, t₀)²      `weighting` 'velocity'
        L   = mean ‖x̂ − x‖²                    `weighting` 'sample'

As v̂ − v = (x − x̂) / t, the first of (3) is the error of the velocity whichever is predicted, with
its weight bounded by 1/t₀². Sample prediction with that weight is what works in pixels with patches
that hold more numbers than the network has channels to spare (Li and He 2025, arXiv 2511.13720).

The generator of "Fine-grained Defocus Blur Control" (arXiv 2510.06215) makes an image that is sharp
everywhere; aperture and focus come after it, from a lens, so it is not told of them. The paper's is
distilled from SDXL; this one is trained from nothing or starts from FLUX's weights. The caption is
withheld in training now and then, so that guidance has an unconditional side.

With `images` 'photographs' x is what a camera has taken instead, and with `exif_tokens` the network
is told of the camera too (`models.exif_tokens`): p(photograph | caption, EXIF). That is the teacher
of `distribution_matching`, and the baseline of all that has a lens: nothing holds the scene while
the f-number changes.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt8

from bokeh_jax import diffusion, models
from bokeh_jax.errors import InvalidInput
from bokeh_jax.models import CodecConfig, RefocusConfig, TextOnly
from bokeh_jax.models.byte_text import ByteTextConfig, encode_prompts
from bokeh_jax.models.codec import decode, encode
from bokeh_jax.models.config import check_between, check_choice
from bokeh_jax.models.exif_tokens import EXIF_TOKENS, exif_tokens
from bokeh_jax.objectives.conditions import to_model_range
from bokeh_jax.objectives.mirror import mirrored
from bokeh_jax.objectives.refocus import PIXELS, psnr_db
from bokeh_jax.optics import Exif
from bokeh_jax.simulation import SimulationConfig, draw_scenes

PyTree = Any
# The encoder's part of the network's tree.
TEXT = "text"
# Prompts in a batch, as `models.byte_text.prompt_bytes` makes them.
CAPTION = "caption"
# What a camera has taken, and what its EXIF says, as `Exif.from_fields` takes it.
PHOTOGRAPH, CAMERA = "photograph", "camera"
Images = Literal["all_in_focus", "photographs"]
IMAGES: tuple[Images, ...] = ("all_in_focus", "photographs")
TextFrom = Literal["bytes", "stored"]
TEXT_FROM: tuple[TextFrom, ...] = ("bytes", "stored")
Weighting = Literal["velocity", "sample"]
WEIGHTINGS: tuple[Weighting, ...] = ("velocity", "sample")


@dataclasses.dataclass(frozen=True)
class GenerationConfig:
    """Settings of the objective.

    Attributes:
        text_from: 'bytes' trains a byte-level encoder with the network; 'stored' takes the
            embeddings that the dataset was built with (`data build --text-encoder`).
        prediction: what the network predicts.
        weighting: equation (3).
        least_time: t₀.
        time: how times are drawn.
        text_dropout_rate: share of images trained without their caption.
        images: 'all_in_focus' for scenes with no lens, 'photographs' for what cameras have taken.
        exif_tokens: whether the network is told what EXIF says of the photograph's camera.
        exif_dropout_rate: share of photographs trained without EXIF.
    """

    text_from: TextFrom = "bytes"
    prediction: diffusion.Prediction = "sample"
    weighting: Weighting = "velocity"
    least_time: float = 0.1
    time: diffusion.TimeSampling = dataclasses.field(default_factory=diffusion.TimeSampling)
    text_dropout_rate: float = 0.1
    images: Images = "all_in_focus"
    exif_tokens: bool = False
    exif_dropout_rate: float = 0.1

    def __post_init__(self) -> None:
        check_choice("images", self.images, IMAGES)
        check_choice("text_from", self.text_from, TEXT_FROM)
        check_choice("weighting", self.weighting, WEIGHTINGS)
        if not 0.0 < self.least_time <= 1.0:
            raise InvalidInput(f"least_time is {self.least_time}; allowed: above 0, up to 1")
        for name in ("text_dropout_rate", "exif_dropout_rate"):
            check_between(name, getattr(self, name), 0, 1)
        if self.exif_tokens and self.images != "photographs":
            raise InvalidInput(
                f"exif_tokens is true with images={self.images!r}; allowed: 'photographs', as what "
                "has no lens has no EXIF"
            )


def all_in_focus(
    batch: Mapping[str, Any], keys: Key[Array, " b"], simulation: SimulationConfig
) -> Float[Array, "b h w 3"]:
    """What the scenes of a batch look like with no lens, cropped and varied as their keys say.

    Returns:
        In the model's range; lights are clipped at white, as in a file.
    """
    scenes, _ = draw_scenes(dict(batch), keys, simulation)
    return to_model_range(jnp.minimum(scenes.image, 1.0))


def photographs_taken(
    batch: Mapping[str, Any], keys: Key[Array, " b"], simulation: SimulationConfig
) -> Float[Array, "b h w 3"]:
    """What cameras have taken, whole, in the model's range; mirrored as `augment.flip_rate` says.

    Nothing else of a scene is read: neither its view without a lens nor its disparity.
    """
    seen = mirrored({PHOTOGRAPH: batch[PHOTOGRAPH]}, keys, simulation.augment.flip_rate)
    return to_model_range_of_bytes(seen[PHOTOGRAPH])


def to_model_range_of_bytes(images: UInt8[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """Stored sRGB bytes as the networks take them, [-1, 1]."""
    return jnp.asarray(images).astype(jnp.float32) / 127.5 - 1.0


def told(
    params: PyTree,
    prompts: Mapping[str, Any],
    *,
    text: ByteTextConfig,
    generation: GenerationConfig,
    given: Float[Array, " b"] | None = None,
    exif_given: Float[Array, " b"] | None = None,
) -> TextOnly:
    """What the network is told of prompts, and of the camera where it reads EXIF.

    Args:
        params: the network's parameters, the encoder's among them where it has one.
        prompts: `caption` [b, n] where prompts are bytes; `text` [b, t, d] and `pooled` [b, p]
            where they are embeddings; `camera` [b, 3] where EXIF is known.
        text: the encoder.
        generation: which of the two, and whether EXIF is read.
        given: 0 withholds a prompt: its bytes are those of an empty one, its embeddings 0.
        exif_given: 0 withholds EXIF; without a camera it is withheld of all.

    Raises:
        InvalidInput: the prompts are missing.
    """
    known = _told_of_text(params, prompts, text=text, generation=generation, given=given)
    if not generation.exif_tokens:
        return known
    assert known.text is not None  # Both kinds of prompts have tokens.
    camera, count = prompts.get(CAMERA), known.text.shape[0]
    if exif_given is None:
        exif_given = jnp.full((count,), 0.0 if camera is None else 1.0)
    fields = jnp.ones((count, 3)) if camera is None else jnp.asarray(camera)
    tokens = exif_tokens(params[EXIF_TOKENS], Exif.from_fields(fields), exif_given)
    return TextOnly(jnp.concatenate((known.text, tokens), axis=1), known.pooled)


def _told_of_text(
    params: PyTree,
    prompts: Mapping[str, Any],
    *,
    text: ByteTextConfig,
    generation: GenerationConfig,
    given: Float[Array, " b"] | None,
) -> TextOnly:
    needed = (CAPTION,) if generation.text_from == "bytes" else ("text", "pooled")
    if missing := [name for name in needed if name not in prompts]:
        raise InvalidInput(
            f"batch lacks {', '.join(missing)}; allowed with text_from={generation.text_from!r}: "
            f"a batch with {' and '.join(needed)}"
        )
    if generation.text_from == "bytes":
        written: UInt8[Array, "b n"] = jnp.asarray(prompts[CAPTION])
        if given is not None:
            written = jnp.where(given[:, None] > 0, written, jnp.zeros_like(written))
        return TextOnly(*encode_prompts(text, params[TEXT], written))
    values = [jnp.asarray(prompts[name]).astype(jnp.float32) for name in needed]
    if given is not None:
        values = [value * given.reshape(-1, *(1,) * (value.ndim - 1)) for value in values]
    return TextOnly(*values)


def generate_loss(
    params: PyTree,
    batch: dict[str, Any],
    keys: Key[Array, " b"],
    *,
    model: RefocusConfig,
    text: ByteTextConfig,
    simulation: SimulationConfig,
    generation: GenerationConfig,
    codec: CodecConfig = PIXELS,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Equation (3) of one scene batch; pure.

    Args:
        params: the network's parameters, the text encoder's and the codec's among them.
        batch: scene batch (docs/architecture.md) with its captions.
        keys: one typed key a scene; every draw of a scene comes from its key.
        model: the network; its reference enters as tokens, of which there are none here.
        text: the byte-level encoder.
        simulation: frames and how scenes are varied.
        generation: settings of this objective.
        codec: between images and what the network works on.

    Returns:
        (loss, parts); `sample_psnr_db` compares x̂ with x in what the network works on.
    """

    def stream(index: int) -> Key[Array, " b"]:
        return jax.vmap(lambda key: jax.random.fold_in(key, index))(keys)

    shown = photographs_taken if generation.images == "photographs" else all_in_focus
    images = shown(batch, stream(0), simulation)
    truth = encode(codec, params, images, stream(1))
    noise = jax.vmap(lambda key: jax.random.normal(key, truth.shape[1:]))(stream(2))
    times = jax.vmap(lambda key: diffusion.sample_time(generation.time, key))(stream(3))

    def kept(index: int, rate: float) -> Float[Array, " b"]:
        dropped = jax.vmap(lambda key: jax.random.bernoulli(key, rate))(stream(index))
        return 1.0 - dropped.astype(jnp.float32)

    x_t = diffusion.interpolate(truth, noise, times)
    prompts = told(
        params,
        batch,
        text=text,
        generation=generation,
        given=kept(4, generation.text_dropout_rate),
        exif_given=kept(5, generation.exif_dropout_rate) if generation.exif_tokens else None,
    )
    samples = predicted_samples(params, x_t, times, prompts, model=model, generation=generation)
    loss, error = denoising_loss(samples, truth, times, generation)
    return loss, {"loss": loss, "sample_psnr_db": psnr_db(error)}


def predicted_samples(
    params: PyTree,
    x_t: Float[Array, "b h w c"],
    times: Float[Array, " b"],
    known: TextOnly,
    *,
    model: RefocusConfig,
    generation: GenerationConfig,
) -> Float[Array, "b h w c"]:
    """Equation (2): x̂, whatever the network predicts; `known` is the answer of `told`."""
    predicted = models.apply(model, _network(params), x_t, times, known)
    if generation.prediction == "velocity":
        return diffusion.sample_from_velocity(x_t, predicted, times)
    return predicted


def denoising_loss(
    samples: Float[Array, "b h w c"],
    truth: Float[Array, "b h w c"],
    times: Float[Array, " b"],
    generation: GenerationConfig,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Equation (3) of samples x̂, and the mean of ‖x̂ − x‖²."""
    error = jnp.mean(jnp.square(samples - truth), axis=(1, 2, 3))
    weight = jnp.ones_like(times)
    if generation.weighting == "velocity":
        weight = 1.0 / jnp.square(jnp.maximum(times, generation.least_time))
    return jnp.mean(weight * error), jnp.mean(error)


def sample_images(
    params: PyTree,
    prompts: Mapping[str, Any],
    keys: Key[Array, " b"],
    size: tuple[int, int],
    *,
    model: RefocusConfig,
    text: ByteTextConfig,
    generation: GenerationConfig,
    codec: CodecConfig = PIXELS,
    method: diffusion.Method = "euler",
    num_steps: int = 24,
    guidance_scale: float = 1.0,
) -> Float[Array, "b h w 3"]:
    """Images of prompts, in the model's range; one compiled loop.

    They are all-in-focus ones or photographs, as the network was trained. Guidance withholds the
    prompt and keeps the camera.

    Args:
        params: the network's parameters (for use: the EMA).
        prompts: as `told` takes them.
        keys: one typed key an image: the same key and prompt make the same image.
        size: height and width of what the network works on.
        model: the network.
        text: the byte-level encoder.
        generation: what the network predicts.
        codec: between images and what the network works on.
        method: solver.
        num_steps: solver steps.
        guidance_scale: 1 is none.
    """
    network = _network(params)

    def predictor(given: Float[Array, " b"] | None) -> diffusion.Predictor:
        known = told(params, prompts, text=text, generation=generation, given=given)
        return lambda x, time: models.apply(model, network, x, time, known)

    predict = predictor(None)
    if guidance_scale != 1.0:
        predict = diffusion.guided(predict, predictor(jnp.zeros(keys.shape)), guidance_scale)
    shape = (*size, model.image_channels)
    samples = diffusion.sample(
        predict,
        jax.vmap(lambda key: jax.random.normal(key, shape))(keys),
        diffusion.time_grid(num_steps),
        method=method,
        prediction=generation.prediction,
    )
    return decode(codec, params, samples)


def _network(params: PyTree) -> PyTree:
    """The transformer alone, as `models.apply` takes it."""
    return {"dit": params["dit"]}
