"""What the task 'focus' needs of a dataset, and its pictures while training."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from bokeh_jax.config import ExperimentConfig
from bokeh_jax.errors import InvalidInput
from bokeh_jax.models.focus_transformer import FocusAnswer
from bokeh_jax.objectives.exif_defocus import answer_of, scenes_of
from bokeh_jax.optics import Exif, linear_to_srgb, render_defocus, srgb_to_linear
from data_pipeline.dataset import DatasetInfo, load_split


def check_photographs(config: ExperimentConfig, info: DatasetInfo) -> None:
    """The split holds photographs with EXIF and a view in focus everywhere, in whole patches.

    The first scene of every group is read; the loader looks at each as it comes.

    Raises:
        InvalidInput: it does not.
    """
    patch, path = config.focus.patch_size, Path(config.data.path)
    for index, group in enumerate(info.splits[config.data.split]):
        if group.kind != "photographs":
            raise InvalidInput(
                f"dataset {path} has scenes of kind {group.kind!r}; allowed with task='focus': "
                "'photographs', such as `data build --source=photographer` makes"
            )
        if group.height_px % patch or group.width_px % patch:
            raise InvalidInput(
                f"dataset {path} has frames of {group.height_px}x{group.width_px} px; allowed: "
                f"multiples of focus.patch_size={patch}"
            )
        load_split(path, config.data.split, limit=1, group=index, taken=True)


def focus_columns(
    params: Any, batch: dict[str, Array], keys: Key[Array, " b"], config: ExperimentConfig
) -> list[Float[Array, "b h w 3"]]:
    """Image, attention, lens blur by the answer, and photograph, in the model's range."""
    image, photograph, disparity, exif = scenes_of(batch)
    answer = answer_of(params, image, photograph, disparity, exif, model=config.focus)
    blurred = lens_blur_of(answer, image, disparity, exif, config.exif.max_blur_fraction)
    shown = attention_picture(answer.attention, image, config.focus.patch_size)
    return [2.0 * part - 1.0 for part in (image, shown, blurred, photograph)]


def lens_blur_of(
    answer: FocusAnswer,
    image: Float[Array, "b h w 3"],
    disparity: Float[Array, "b h w"],
    exif: Exif,
    max_blur_fraction: float,
) -> Float[Array, "b h w 3"]:
    """The photograph that an answer leads to, sRGB-encoded."""
    width_px = image.shape[2]
    lens = exif.lens(answer.focus_disparity, answer.scale_m, width_px)
    taken = render_defocus(
        srgb_to_linear(image), disparity, lens, max_radius_px=max_blur_fraction * width_px
    )
    return jnp.clip(linear_to_srgb(taken), 0.0, 1.0)


def attention_picture(
    attention: Float[Array, "b n"], image: Float[Array, "b h w 3"], patch_size: int
) -> Float[Array, "b h w 3"]:
    """The image in grey, redder where there is more attention (by its root, over the most)."""
    rows, columns = image.shape[1] // patch_size, image.shape[2] // patch_size
    share = attention / jnp.max(attention, axis=1, keepdims=True)
    share = jnp.sqrt(share).reshape(-1, rows, columns)
    share = jnp.repeat(jnp.repeat(share, patch_size, axis=1), patch_size, axis=2)[..., None]
    grey = jnp.broadcast_to(0.7 * jnp.mean(image, axis=-1, keepdims=True), image.shape)
    red = jnp.asarray([1.0, 0.15, 0.1], image.dtype)[None, None, None, :]
    return (1.0 - 0.8 * share) * grey + 0.8 * share * red
