"""`bokeh-jax generate`: a prompt and a camera in, photographs of one scene out."""

import argparse
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from PIL import Image

from bokeh_jax.commands.photo import parse_point
from bokeh_jax.errors import InvalidInput
from bokeh_jax.evaluation.contact_sheet import lay_out
from bokeh_jax.inference.exif_block import exif_block
from bokeh_jax.inference.generator import (
    Camera,
    Focus,
    GeneratedScene,
    Generator,
    Photographed,
)
from bokeh_jax.inference.photo_file import Photo, write_photo
from bokeh_jax.training.focus_data import attention_picture

_SHEET_CELL_PX = 192


@dataclasses.dataclass(frozen=True)
class _Shot:
    """One photograph that is asked for."""

    name: str
    camera: Camera
    focus: Focus


def generate(arguments: argparse.Namespace) -> None:
    """Makes the scene, takes the photographs, writes all files, and says what was in focus.

    Raises:
        InvalidInput: a value of the command line, a checkpoint or a folder that cannot be used.
    """
    shots = _shots(arguments)
    if arguments.steps is not None and arguments.steps < 1:
        raise InvalidInput(f"--steps is {arguments.steps}; allowed: 1 or more")
    generator = Generator.from_checkpoint(
        arguments.checkpoint, depth=arguments.depth_model, focus=arguments.focus_model
    )
    scene = generator.scene(
        arguments.prompt,
        seed=arguments.seed,
        num_steps=arguments.steps,
        guidance_scale=arguments.guidance,
    )
    # What is in focus is found once, with the first camera: a sweep of apertures keeps it.
    taken, found = [], {}
    for shot in shots:
        if shot.focus not in found:
            found[shot.focus] = scene.find_focus(shot.camera, shot.focus, arguments.scale)
        taken.append(scene.photograph(shot.camera, found[shot.focus]))
    _write(arguments.out, scene, shots, taken)


def _shots(arguments: argparse.Namespace) -> list[_Shot]:
    camera = Camera(arguments.f_number, arguments.focal_length, arguments.sensor_width)
    focus = _focus(arguments.focus, "--focus")
    if arguments.sweep is None:
        return [_Shot("photograph", camera, focus)]
    name, _, values = arguments.sweep.partition("=")
    if name == "f-number" and values:
        numbers = [_number(text, "--sweep f-number") for text in values.split(",")]
        cameras = [dataclasses.replace(camera, f_number=number) for number in numbers]
        return [_Shot(f"photograph.f{c.f_number:g}", c, focus) for c in cameras]
    if name == "focus" and values:
        points = [_focus(text, "--sweep focus") for text in values.split(";")]
        return [_Shot(f"photograph.focus{i}", camera, p) for i, p in enumerate(points, start=1)]
    raise InvalidInput(
        f"--sweep is {arguments.sweep!r}; allowed: f-number=1.4,2.8 or focus=0.2,0.5;0.8,0.5;2"
    )


def _number(text: str, flag: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidInput(f"{flag} has {text!r}; allowed: numbers") from None


def _focus(text: str, flag: str) -> Focus:
    if text == "auto":
        return None
    if "," in text:
        return parse_point(text, flag)
    try:
        return float(text)
    except ValueError:
        raise InvalidInput(
            f"{flag} is {text!r}; allowed: auto, a point x,y, or a distance in metres"
        ) from None


def _write(
    out: Path, scene: GeneratedScene, shots: Sequence[_Shot], taken: Sequence[Photographed]
) -> None:
    assert scene.disparity is not None  # It was photographed.
    write_photo(out / "all_in_focus.png", Photo(scene.image))
    _write_depth(out / "depth.png", scene.disparity)
    cells = [("all in focus", scene.image), ("depth, near is bright", _grey(scene.disparity))]
    attention = next(
        (one.focus.attention for one in taken if one.focus.attention is not None), None
    )
    if attention is not None:
        shown = np.asarray(
            attention_picture(
                jnp.asarray(attention.reshape(1, -1)),
                jnp.asarray(scene.image, jnp.float32)[None],
                scene.image.shape[0] // attention.shape[0],
            )
        )[0]
        write_photo(out / "focus_attention.png", Photo(shown))
        cells.append(("focus attention", shown))
    for shot, one in zip(shots, taken, strict=True):
        path = out / f"{shot.name}.png"
        write_photo(path, Photo(one.image, exif_block(one, scene.prompt)))
        print(f"{path}: {_said(one)}")
        cells.append((f"f/{one.camera.f_number:g}, d {one.focus.disparity:.2f}", one.image))
    lay_out([cells], {}, cell_px=_SHEET_CELL_PX).save(out / "contact_sheet.png")


def _said(taken: Photographed) -> str:
    camera, focus = taken.camera, taken.focus
    sure = "" if focus.uncertainty is None else f" ± {focus.uncertainty:.2f}"
    return (
        f"f/{camera.f_number:g}, {camera.focal_length_mm:g} mm, focus at disparity "
        f"{focus.disparity:.3f}{sure} ({taken.focus_distance_m:.2f} m), blur up to "
        f"{taken.max_radius_px:g} px"
    )


def _write_depth(path: Path, disparity: np.ndarray) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    levels = np.rint(disparity * 65535.0).astype(np.uint16)
    Image.fromarray(levels).save(temporary, format="PNG")
    temporary.replace(path)


def _grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(np.clip(values, 0.0, 1.0)[..., None], 3, axis=-1)
