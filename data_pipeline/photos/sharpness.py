"""How blurred the edges of a photograph are, tile by tile: is it in focus everywhere?

A step edge that a Gaussian of standard deviation σ has blurred has, for each pixel of its length,
the gradient energy ∫ |∇I|² ∝ 1/σ. Blurred once more by a fine and by a coarse Gaussian, of standard
deviations f and c, the two energies have the ratio

    q = E_c / E_f = sqrt((σ² + f² + g²) / (σ² + c² + g²)),

with g² = 1/3 the variance of the central difference that measures the gradient. The contrast and
the number of edges drop out, so a tile tells the blur of its edges, in pixels:

    σ² = (q² (c² + g²) − f² − g²) / (1 − q²),         0 where this is negative.

The fine Gaussian tames noise. Lines and textures give less than edges, never more, so what is in
focus stays small. A tile counts if it has structure on the coarse scale, E_c at least
`MIN_ENERGY` a pixel: defocus removes fine structure first, so blurred surroundings still count,
and clear sky does not. The score of a photograph is the 0.9 quantile over the tiles that count: the
blur that a tenth of them exceed, since soft shading and shadows look like blurred edges.

A disc of defocus of radius R has the standard deviation R / 2 across any line. The blur is measured
on the stored frame: what a smaller frame does not show does not matter.

The estimate follows Zhuo and Sim, "Defocus map estimation from a single image" (2011), who take the
ratio of the gradients at single edge pixels.
"""

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8

# Of 8 photographs in focus everywhere and 11 that are not, from several cameras and simulators, at
# 256 and 512 pixels, the former score 0 to 0.74 and the latter 0.88 to 4.9.
IN_FOCUS_BLUR_PX = 0.8

TILE_PX = 32
FINE_PX, COARSE_PX = 0.5, 1.5
# Luminance² / pixel², with luminance in [0, 1].
MIN_ENERGY = 2e-5
QUANTILE = 0.9

_DIFFERENCE_VARIANCE = 1 / 3
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)


def edge_blur_px(image: UInt8[np.ndarray, "h w 3"]) -> float:
    """Return the score of a photograph: standard deviation of its edges' blur, pixels.

    Returns:
        0 for edges as sharp as pixels allow; infinity where no tile has structure to measure.
    """
    blur = tile_blur_px(image)
    measured = blur[np.isfinite(blur)]
    return float(np.quantile(measured, QUANTILE)) if measured.size else float("inf")


def tile_blur_px(image: UInt8[np.ndarray, "h w 3"]) -> Float64[np.ndarray, "rows columns"]:
    """Return the blur of the edges of each tile, pixels; NaN where a tile has no structure.

    Tiles have `TILE_PX` a side, or the image's where that is less; what is left over at the right
    and at the bottom is left out.
    """
    luminance = image.astype(np.float32) @ (_LUMINANCE / 255)
    fine, coarse = (_tile_energy(luminance, sigma_px) for sigma_px in (FINE_PX, COARSE_PX))
    fine_variance = FINE_PX**2 + _DIFFERENCE_VARIANCE
    coarse_variance = COARSE_PX**2 + _DIFFERENCE_VARIANCE
    # Blurring takes energy away; the clip is for tiles that gain some over their rims.
    ratio = np.clip(coarse / np.maximum(fine, np.finfo(np.float64).tiny), 0, 0.999) ** 2
    variance = (ratio * coarse_variance - fine_variance) / (1 - ratio)
    blur = np.sqrt(np.maximum(variance, 0))
    return np.where(coarse >= MIN_ENERGY, blur, np.nan)


def _tile_energy(
    luminance: Float32[np.ndarray, "h w"], sigma_px: float
) -> Float64[np.ndarray, "rows columns"]:
    """Mean squared gradient of each tile of the blurred image."""
    blurred = cv2.GaussianBlur(luminance, (0, 0), sigma_px, borderType=cv2.BORDER_REFLECT_101)
    energy = np.zeros(luminance.shape)
    energy[:, 1:-1] += ((blurred[:, 2:] - blurred[:, :-2]) / 2) ** 2
    energy[1:-1] += ((blurred[2:] - blurred[:-2]) / 2) ** 2
    height, width = luminance.shape
    tile_height, tile_width = min(TILE_PX, height), min(TILE_PX, width)
    rows, columns = height // tile_height, width // tile_width
    tiles = energy[: rows * tile_height, : columns * tile_width].reshape(
        rows, tile_height, columns, tile_width
    )
    return tiles.mean(axis=(1, 3))
