"""The blur of edges: closed forms, blurred photographs, and real ones in focus and not."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.special import erf

from data_pipeline.frames import cover_box
from data_pipeline.layered.textures import load_textures
from data_pipeline.photos.sharpness import (
    IN_FOCUS_BLUR_PX,
    TILE_PX,
    edge_blur_px,
    tile_blur_px,
)

SHARED = Path(__file__).parents[4] / "shared" / "data"
IN_FOCUS = (
    "bokehme/3.jpg",
    "bokehme/13.jpg",
    "bokehme/21.jpg",
    "genfocus/AIF_example.png",
    "mpib/new_11_all-in-focus.jpg",
    "motorcycle/motorcycle_left.png",
    "natlee/depth-test.jpg",
    "focus_stack_pcb/expected.jpg",
)
DEFOCUSED = (
    "genfocus/Blurry_example.jpg",
    "bokehme/21_out_bokeh_classical.jpg",
    "bokehme/21_out_bokeh_pred.jpg",
    "mpib/out_bokeh_pred.jpg",
    *(f"focus_stack_pcb/pcb_00{number}.jpg" for number in range(1, 8)),
)


def _levels(luminance: np.ndarray) -> np.ndarray:
    return np.repeat(np.round(255 * luminance)[..., None], 3, axis=2).astype(np.uint8)


def _edge(sigma_px: float, angle: float = 0.0, contrast: float = 0.8) -> np.ndarray:
    """A step edge through the middle of a tile, blurred by a Gaussian."""
    y, x = np.mgrid[:TILE_PX, :TILE_PX] - (TILE_PX - 1) / 2
    across = x * np.cos(angle) + y * np.sin(angle)
    return _levels(0.5 + contrast / 2 * erf(across / (sigma_px * np.sqrt(2))))


@pytest.mark.parametrize("sigma_px", [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("angle", [0.0, 0.4, np.pi / 2])
@pytest.mark.parametrize("contrast", [0.3, 0.9])
def test_a_blurred_edge_tells_its_blur(sigma_px, angle, contrast):
    assert edge_blur_px(_edge(sigma_px, angle, contrast)) == pytest.approx(sigma_px, rel=0.11)


def test_a_sharp_edge_has_no_blur_and_texture_has_none_either():
    assert edge_blur_px(_edge(0.01)) < 0.2
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert edge_blur_px(noise) == 0


def test_only_tiles_with_structure_count():
    """Clear sky is not blurred; where there is nothing to see nothing is known."""
    image = np.full((2 * TILE_PX, 3 * TILE_PX + 5, 3), 100, np.uint8)
    assert edge_blur_px(image) == float("inf")
    image[:TILE_PX, TILE_PX : 2 * TILE_PX] = _edge(2.0)
    # So that the tiles beside it see no edge at their rims.
    image[:TILE_PX, :TILE_PX], image[:TILE_PX, 2 * TILE_PX :] = image[0, TILE_PX], image[0, 63]
    image[TILE_PX:] = image[:1]
    image[TILE_PX:, TILE_PX : 2 * TILE_PX] = image[0, TILE_PX]
    blur = tile_blur_px(image)
    assert blur.shape == (2, 3)
    assert np.isfinite(blur[0, 1])
    assert np.isnan(blur[0, [0, 2]]).all()


def test_a_tenth_of_the_tiles_may_be_blurred():

    def score(num_blurred: int) -> float:
        # Every other tile is mirrored, so that there are no edges between tiles.
        sigmas_px = [0.4] * (20 - num_blurred) + [3.0] * num_blurred
        tiles = [_edge(sigma)[:, :: (-1) ** i] for i, sigma in enumerate(sigmas_px)]
        return edge_blur_px(np.concatenate(tiles, axis=1))

    assert score(1) < 0.5
    assert score(3) > 2.5


@pytest.mark.parametrize("name", ["camera", "coins", "coffee", "china", "ihc"])
def test_blurring_a_photograph_takes_it_out_of_focus(name):
    """Embedded photographs, at the size that a frame of 256 pixels shows them."""
    textures = load_textures()
    pixels = {**textures.train, **textures.held_out}[name]
    small = np.asarray(Image.fromarray(pixels).resize((256, 256), Image.Resampling.LANCZOS))
    scores = [
        edge_blur_px(small if sigma_px == 0 else cv2.GaussianBlur(small, (0, 0), sigma_px))
        for sigma_px in (0, 1.5, 2.5, 4)
    ]
    assert scores[0] < IN_FOCUS_BLUR_PX < scores[1] < scores[2] < scores[3]
    # The same photograph, half of it defocused.
    half = small.copy()
    half[:, 128:] = cv2.GaussianBlur(small, (0, 0), 3.0)[:, 128:]
    assert edge_blur_px(half) > IN_FOCUS_BLUR_PX


@pytest.mark.skipif(not SHARED.is_dir(), reason="the folder of shared photographs is absent")
@pytest.mark.parametrize("size_px", [256, 512])
def test_real_photographs_are_told_apart(size_px):
    def score(name: str) -> float:
        with Image.open(SHARED / name) as file:
            image = file.convert("RGB")
        box = cover_box(image.height, image.width, (size_px, size_px))
        frame = image.resize((size_px, size_px), Image.Resampling.LANCZOS, box=box)
        return edge_blur_px(np.asarray(frame))

    assert max(score(name) for name in IN_FOCUS) < IN_FOCUS_BLUR_PX
    assert min(score(name) for name in DEFOCUSED) > IN_FOCUS_BLUR_PX
