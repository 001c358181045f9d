"""Draws the README's front picture with the released network: `python docs/make_front.py`.

Upper row: Middlebury's Motorcycle with its measured disparity, photographed by the lens blur with
the focus on the motorcycle, then asked for the wall behind. Lower row: a layered scene of held-out
photographs with lenses whose truth is known exactly. From left to right: the photograph, the lens
blur's own answer (the blur that is missing), the network's, the truth. Under each answer its PSNR.
"""

from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw

from bokeh_jax.evaluation.metrics import psnr_db
from bokeh_jax.inference import Refocuser, TakenWith
from bokeh_jax.inference.request import lens_blur
from bokeh_jax.optics import Lens, linear_to_srgb
from bokeh_jax.simulation import crop_scene, disparity_at, photograph
from data_pipeline.demo_photo import demo_photo
from data_pipeline.layered import LayeredSource

OUT = Path(__file__).parent / "images" / "front.png"
SIDE_PX, GAP_PX, TEXT_PX = 256, 6, 18
BLUR = 0.02


def motorcycle() -> tuple[np.ndarray, np.ndarray]:
    """Photograph and disparity, made smaller and cut to a square."""
    pixels, disparity = demo_photo()
    scale = SIDE_PX / pixels.shape[0]
    size = (round(pixels.shape[1] * scale), SIDE_PX)
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255.0
    known = np.clip(cv2.resize(disparity, size, interpolation=cv2.INTER_AREA), 0.0, 1.0)
    left = 60
    return small[:, left : left + SIDE_PX], known[:, left : left + SIDE_PX]


def taken(
    pixels: np.ndarray, disparity: np.ndarray, focus: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """A photograph of an all-in-focus one, and the truth of being all in focus: itself."""
    return lens_blur(pixels, disparity, focus, BLUR), pixels


def layered(index: int, points: tuple[tuple[float, float], ...]) -> tuple[np.ndarray, ...]:
    """Disparity of a scene of held-out photographs, and its photographs focused on each point."""
    side_px = SIDE_PX + 32
    scene = LayeredSource(size_px=side_px, seed=5, max_layers=3).scene("eval_heldout", index)
    record = {
        "layers": jnp.asarray(scene.layers),
        "layer_disparity": jnp.asarray(scene.layer_disparity),
        "layer_gain": jnp.asarray(scene.layer_gain),
    }
    frame = (SIDE_PX, SIDE_PX)
    cropped = crop_scene(record, None, frame=frame, max_radius_px=BLUR * SIDE_PX)
    planes = disparity_at(cropped.disparity, jnp.asarray(points))
    blur_px = jnp.full(len(points), BLUR * SIDE_PX)
    batch = jax.tree.map(lambda leaf: leaf[None], cropped)
    lenses = Lens(focus_disparity=planes[None], blur_px=blur_px[None])
    photographs = photograph(batch, lenses, max_radius_px=8.0)[0]
    shown = np.asarray(linear_to_srgb(jnp.clip(photographs, 0.0, 1.0)))
    return np.asarray(cropped.disparity), *shown


def row(
    refocuser: Refocuser,
    pixels: np.ndarray,
    disparity: np.ndarray,
    truth: np.ndarray,
    own: TakenWith,
    focus: tuple[float, float],
    blur: float,
) -> list[tuple[str, np.ndarray]]:
    """Captioned pictures: photograph, lens blur, network, truth."""
    pixels = np.rint(pixels * 255.0).astype(np.uint8).astype(np.float32) / 255.0
    physics = lens_blur(pixels, disparity, focus, blur, taken_with=own)
    answer = refocuser(pixels, focus=focus, blur=blur, disparity=disparity, taken_with=own)
    asked = "all in focus" if blur == 0 else "the other plane"
    score = lambda image: f"{psnr_db(image[None], truth[None])[0]:.2f} dB"  # noqa: E731
    return [
        (f"photograph, {score(pixels)}", pixels),
        (f"{asked}: lens blur alone, {score(physics)}", physics),
        (f"the released network, {score(answer.image)}", answer.image),
        ("truth", truth),
    ]


def sheet(rows: list[list[tuple[str, np.ndarray]]]) -> Image.Image:
    """Rows of captioned pictures on white."""
    widths = [sum(image.shape[1] + GAP_PX for _, image in cells) for cells in rows]
    height = SIDE_PX + TEXT_PX + GAP_PX
    page = Image.new("RGB", (max(widths), height * len(rows)), "white")
    draw = ImageDraw.Draw(page)
    for index, cells in enumerate(rows):
        left = 0
        for caption, image in cells:
            levels = np.rint(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)
            page.paste(Image.fromarray(levels), (left, index * height))
            draw.text((left + 2, index * height + SIDE_PX + 2), caption, fill="black")
            left += image.shape[1] + GAP_PX
    return page


def main() -> None:
    """Draws and writes the picture."""
    refocuser = Refocuser.released()
    sharp, disparity = motorcycle()
    near, far = (0.5, 0.6), (0.9, 0.1)
    photo, truth = taken(sharp, disparity, near)
    rows = [row(refocuser, photo, disparity, truth, TakenWith(near, BLUR), far, 0.0)]
    for index, points in ((0, ((0.5, 0.5), (0.05, 0.05))), (2, ((0.05, 0.05), (0.5, 0.5)))):
        known, photo, truth = layered(index, points)
        own = TakenWith(points[0], BLUR)
        rows.append(row(refocuser, photo, known, truth, own, points[1], BLUR))
    sheet(rows).save(OUT, optimize=True)
    print(OUT)


if __name__ == "__main__":
    main()
