"""Draws the pictures of docs/lens_blur.md: `python docs/make_images.py`, with the package alone.

Three rows of small lights on dark grey, the upper two behind the focus plane and the lowest in
front of it, seen through every aperture.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bokeh_jax.inference.photo_file import Photo, write_photo
from bokeh_jax.optics import (
    Aperture,
    CatEye,
    Disc,
    KernelImage,
    Polygon,
    Ring,
    Squeezed,
    linear_to_srgb,
    render_radius,
)

render = jax.jit(render_radius, static_argnames=("aperture", "max_radius_px"))
FOLDER = Path(__file__).parent / "images"
HEIGHT, WIDTH, RADIUS_PX = 120, 200, 13.0


def heart() -> KernelImage:
    """An opening cut out of cardboard."""
    y, x = (1 - 2 * (np.arange(101) + 0.5) / 101)[:, None], np.linspace(-1, 1, 101)[None]
    x, y = 1.2 * x, 1.2 * y + 0.1
    return KernelImage.from_array(np.float32((x**2 + y**2 - 0.7) ** 3 < 1.5 * x**2 * y**3))


APERTURES: dict[str, Aperture] = {
    "disc": Disc(),
    "polygon": Polygon(blades=5, rotation_rad=-np.pi / 2),
    "rounded": Polygon(blades=6, roundness=0.5),
    "anamorphic": Squeezed(Disc(), 0.5),
    "soap_bubbles": Ring(rim=4.0, power=6.0),
    "apodised": Ring(rim=0.0, power=2.0),
    "mirror_lens": Ring(rim=1.0, hole=0.5),
    "kernel_image": heart(),
    "cat_eye": CatEye(Disc(), amount=0.9, zones=5),
}


def lights() -> tuple[np.ndarray, np.ndarray]:
    """The scene: linear light [h, w, 3] and signed radii [h, w]."""
    random = np.random.default_rng(0)
    light = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    rows, columns = np.linspace(20, HEIGHT - 21, 3), np.linspace(22, WIDTH - 23, 5)
    for row in rows.astype(int):
        for column in columns.astype(int):
            color = 0.4 + 0.6 * random.random(3)
            light[row - 1 : row + 2, column - 1 : column + 2] += 25 * color
    radius_px = np.full((HEIGHT, WIDTH), -RADIUS_PX, np.float32)
    radius_px[3 * HEIGHT // 4 :] = RADIUS_PX
    return light, radius_px


def main() -> None:
    """Writes one PNG an aperture."""
    light, radius_px = lights()
    for name, aperture in APERTURES.items():
        # Each depth on its own: lights of one do not hide those of the other.
        picture = 0.01 + sum(
            render(
                jnp.asarray(np.where(part[..., None], light, 0.0)),
                jnp.full(part.shape, radius),
                aperture=aperture,
                max_radius_px=RADIUS_PX,
            )
            for radius in (-RADIUS_PX, RADIUS_PX)
            for part in (radius_px == radius,)
        )
        write_photo(FOLDER / f"{name}.png", Photo(np.asarray(linear_to_srgb(picture))))


if __name__ == "__main__":
    main()
