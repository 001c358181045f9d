"""What is asked of one photograph, checked; and the lens blur's own answer to it."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bokeh_jax.errors import InvalidInput
from bokeh_jax.inference.lens_photo import PhotoSettings, photograph
from bokeh_jax.inference.photo_file import resize
from bokeh_jax.optics import Aperture, Disc, Lens
from bokeh_jax.simulation import disparity_at, missing_radius_px


@dataclasses.dataclass(frozen=True)
class TakenWith:
    """How a photograph was taken, where that is known.

    Attributes:
        focus: (x, y) in [0, 1], a point that is sharp.
        blur: K / width; 0 where everything is sharp.
    """

    focus: tuple[float, float] = (0.5, 0.5)
    blur: float = 0.0


@dataclasses.dataclass(frozen=True)
class Request:
    """One photograph and what is asked of it.

    Attributes:
        pixels: sRGB-encoded, [0, 1].
        focus: (x, y) in [0, 1], the point to be sharp.
        blur: K / width.
        disparity: relative [0, 1]; None where unknown.
        taken_with: the photograph's own camera; None where unknown.
    """

    pixels: Float[np.ndarray, "h w 3"]
    focus: tuple[float, float]
    blur: float
    disparity: np.ndarray | None
    taken_with: TakenWith | None

    @property
    def taken(self) -> TakenWith:
        """The photograph's own camera, or what stands in its place where it is unknown."""
        return self.taken_with or TakenWith()

    def plane(self, focus: tuple[float, float]) -> np.float32:
        """Disparity at a point; disparity must be known."""
        known = jnp.asarray(self.disparity, jnp.float32)
        return np.float32(disparity_at(known, jnp.asarray([focus], jnp.float32))[0])

    def resized(self, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Photograph and disparity (zeros where unknown) at another size."""
        small = np.clip(resize(self.pixels, *size), 0.0, 1.0)
        if self.disparity is None:
            return small, np.zeros(size, np.float32)
        # Bilinear resizing of values in [0, 1] may pass the ends by a rounding.
        return small, np.clip(resize(self.disparity.astype(np.float32), *size), 0.0, 1.0)

    def lens_blur(self) -> np.ndarray:
        """Its lens blur at its own size; disparity must be known."""
        if self.disparity is None:
            raise ValueError("a photograph without disparity was to be blurred")
        return lens_blur(
            self.pixels, self.disparity, self.focus, self.blur, taken_with=self.taken_with
        )


def check_request(
    image: np.ndarray, focus: tuple[float, float], blur: float, disparity: np.ndarray | None
) -> None:
    """Refuses what cannot be refocused.

    Raises:
        InvalidInput: focus outside [0, 1], blur negative or not finite, image or disparity of a
            wrong shape or with NaN.
    """
    if image.ndim != 3 or image.shape[2] != 3 or not np.isfinite(image).all():
        raise InvalidInput(
            f"image has shape {image.shape}; allowed: finite values [height, width, 3]"
        )
    if len(focus) != 2 or not all(0.0 <= value <= 1.0 for value in focus):
        raise InvalidInput(f"focus is {focus}; allowed: x,y each from 0 (left, top) to 1")
    if not (math.isfinite(blur) and blur >= 0.0):
        raise InvalidInput(
            f"blur is {blur}; allowed: 0 or more, in image widths of blur radius per unit disparity"
        )
    if disparity is None:
        return
    if disparity.shape != image.shape[:2]:
        raise InvalidInput(
            f"disparity has shape {disparity.shape}; allowed: that of the image, {image.shape[:2]}"
        )
    if not np.isfinite(disparity).all():
        raise InvalidInput(
            "disparity holds NaN or infinite values; allowed: finite values in [0, 1]"
        )
    if disparity.min() < 0.0 or disparity.max() > 1.0:
        raise InvalidInput(
            f"disparity spans {disparity.min():g} to {disparity.max():g}; allowed: relative values "
            "in [0, 1], nearer is larger"
        )


def radius_bound(blur: float, width_px: int) -> float:
    """Static bound of the radius: |d − d_f| is at most 1.

    Rounded up to a power of two or one and a half times that, so that few programs compile.
    """
    needed = max(1.0, blur * width_px)
    power = 2.0 ** math.ceil(math.log2(needed))
    return 0.75 * power if power > 2.0 and needed <= 0.75 * power else power


def lens_blur(
    pixels: Float[np.ndarray, "h w 3"],
    disparity: np.ndarray,
    focus: tuple[float, float],
    blur: float,
    *,
    aperture: Aperture = Disc(),
    taken_with: TakenWith | None = None,
) -> Float[np.ndarray, "h w 3"]:
    """The lens blur of a whole photograph at its own size.

    Args:
        pixels: sRGB-encoded, [0, 1].
        disparity: relative [0, 1], [h, w].
        focus: (x, y) of the point to be sharp.
        blur: K / width.
        aperture: shape of the opening.
        taken_with: of the photograph; only the blur that it lacks is added. None blurs it as if it
            were sharp everywhere.

    Returns:
        sRGB-encoded, [0, 1].
    """
    width_px = pixels.shape[1]
    known = jnp.asarray(disparity, jnp.float32)

    def lens_of(focus: tuple[float, float], blur: float) -> Lens:
        plane = disparity_at(known, jnp.asarray([focus], jnp.float32))[0]
        return Lens(focus_disparity=plane, blur_px=jnp.float32(blur * width_px))

    lens = lens_of(focus, blur)
    if taken_with is not None and taken_with.blur:
        present_px = lens_of(taken_with.focus, taken_with.blur).signed_radius_px(known)
        # The radius map itself plays the disparity's part: K = 1 px per px, focus at 0.
        disparity = np.asarray(missing_radius_px(lens.signed_radius_px(known), present_px))
        lens = Lens(focus_disparity=0.0, blur_px=1.0)
    return photograph(
        pixels,
        disparity,
        lens,
        PhotoSettings(aperture=aperture),
        max_radius_px=radius_bound(blur, width_px),
    )
