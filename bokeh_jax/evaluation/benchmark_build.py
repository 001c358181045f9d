"""Writes the generated benchmark: photographs of scenes, and what is asked of them.

Every scene is photographed on P = 3 planes of focus (near, middle, far) with B blur levels, and all
in focus. Its questions, in each subset:

    add_bokeh   all in focus      -> plane p, level b           P B questions
    deblur      plane p, level b  -> all in focus               P B questions
    refocus     plane p + 1, level b + (turn div P)  ->  plane p, level b    P B questions

Planes and levels are counted modulo P and B. turn = (s div F) + (s mod F), with s the scene and F
the number of frames, so that in scenes of every frame and in the first few scenes alike all pairs
of levels occur. A subset says what a method is told of disparity: the truth, the damaged map,
nothing. The core holds the questions with p = b + turn: as many of each plane and level.

A folder appears under its name when it is whole, never before.
"""

import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bokeh_jax.errors import InvalidInput
from bokeh_jax.evaluation import benchmark as files
from bokeh_jax.evaluation.benchmark import Benchmark, open_benchmark, verify_benchmark
from bokeh_jax.evaluation.benchmark_scenes import (
    BenchmarkSettings,
    PhotographedScene,
    photographed_scenes,
)
from bokeh_jax.evaluation.focus_points import PLANES
from data_pipeline.image_codecs import encode_png
from data_pipeline.layered.textures import Textures

Row = dict[str, Any]
_ALL_IN_FOCUS = "all_in_focus.png"
_TOLD = {"clean": "disparity.png", "damaged_depth": "damaged.png", "no_depth": None}
# What pixels may depend on beside the recipe.
_MADE_WITH = ("jax", "jaxlib", "numpy", "opencv-python-headless", "pillow")


def build_benchmark(
    settings: BenchmarkSettings,
    out: str | Path,
    textures: Textures,
    on_scene: Callable[[int], None] | None = None,
) -> tuple[Benchmark, bool]:
    """Builds the benchmark into a new folder, or finds it there.

    Args:
        settings: what is built.
        out: the folder; missing or empty, or the same benchmark.
        textures: photographs; only those that are held out are used.
        on_scene: told how many scenes are done.

    Returns:
        The benchmark, and whether it was there already.

    Raises:
        InvalidInput: the folder holds something else, or cannot be written; or as the settings.
    """
    out = Path(os.path.abspath(out))
    # What is read back from JSON has lists in place of tuples.
    recipe = json.loads(json.dumps(settings.recipe(textures)))
    if _is_there(out, recipe):
        return verify_benchmark(out), True
    building = out.with_name(f".{out.name}.{os.getpid()}.building")
    try:
        building.mkdir(parents=True)
        _write(building, recipe, photographed_scenes(settings, textures), settings, on_scene)
        building.replace(out)
    except OSError as error:
        raise InvalidInput(
            f"output folder {out} cannot be written ({error.strerror}); allowed: a folder that "
            "this user may write"
        ) from None
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return open_benchmark(out), False


def _is_there(out: Path, recipe: dict[str, Any]) -> bool:
    """Whether the folder holds this benchmark; False where there is nothing yet."""
    if not out.exists():
        return False
    if out.is_dir() and not any(out.iterdir()):
        return False
    if not (out / files.BENCHMARK_FILE).is_file():
        raise InvalidInput(f"output folder {out} holds other things; allowed: a new folder")
    if open_benchmark(out).recipe != recipe:
        raise InvalidInput(
            f"output folder {out} holds a benchmark of other settings; allowed: a new folder"
        )
    return True


def _write(
    folder: Path,
    recipe: dict[str, Any],
    scenes: Iterator[PhotographedScene],
    settings: BenchmarkSettings,
    on_scene: Callable[[int], None] | None,
) -> None:
    rows: list[Row] = []
    sums: dict[str, str] = {}
    told_of: list[dict[str, Any]] = []

    def write(name: str, data: bytes) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        sums[name] = files.sha256(data)

    for scene in scenes:
        for name, data in _pictures(scene).items():
            write(f"{_folder(scene)}/{name}", data)
        rows += scene_rows(scene, settings)
        told_of.append(_described(scene))
        if on_scene is not None:
            on_scene(scene.number + 1)
    write(files.QUESTIONS_FILE, "".join(f"{json.dumps(row)}\n" for row in rows).encode())
    listed = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())).encode()
    (folder / files.SUMS_FILE).write_bytes(listed)
    contents = {
        "name": files.NAME,
        "version": files.VERSION,
        "recipe": recipe,
        "counts": {"scenes": len(told_of), "questions": files.count_rows(rows)},
        "disparity_scale": files.DISPARITY_SCALE,
        "sums_sha256": files.sha256(listed),
        "made_with": {name: importlib.metadata.version(name) for name in _MADE_WITH},
        "scenes": told_of,
    }
    contents["fingerprint"] = files.fingerprint(contents)
    (folder / files.BENCHMARK_FILE).write_text(json.dumps(contents, indent=1) + "\n", "utf-8")


def _folder(scene: PhotographedScene) -> str:
    return f"scenes/{scene.number:04d}"


def _photograph(plane: int, level: int) -> str:
    return f"{PLANES[plane]}_{level}.png"


def _pictures(scene: PhotographedScene) -> dict[str, bytes]:
    """Encoded files of one scene, by name."""
    shots = {
        _photograph(plane, level): image
        for plane, levels in enumerate(scene.photographs)
        for level, image in enumerate(levels)
    }
    maps = {_TOLD["clean"]: scene.disparity, _TOLD["damaged_depth"]: scene.damaged}
    scaled = {
        name: np.rint(values * np.float32(files.DISPARITY_SCALE)).astype(np.uint16)
        for name, values in maps.items()
        if name is not None
    }
    pictures = {_ALL_IN_FOCUS: scene.all_in_focus, **shots, **scaled}
    return {name: encode_png(values) for name, values in pictures.items()}


def _described(scene: PhotographedScene) -> dict[str, Any]:
    height_px, width_px = scene.disparity.shape
    return {
        "scene": f"{scene.number:04d}",
        "index": scene.index,
        "height_px": height_px,
        "width_px": width_px,
        "planes": {
            name: {"point": list(plane.point), "disparity": plane.disparity}
            for name, plane in zip(PLANES, scene.planes, strict=True)
        },
        **scene.made_of,
    }


def scene_rows(scene: PhotographedScene, settings: BenchmarkSettings) -> list[Row]:
    """All questions of one scene, as lines of questions.jsonl."""
    num_planes, num_levels = len(scene.planes), len(settings.blur_fractions)
    turn = sum(divmod(scene.number, len(settings.frames())))
    rows = []
    for subset, told in _TOLD.items():
        for plane in range(num_planes):
            for level in range(num_levels):
                other = (plane + 1) % num_planes
                its_level = (level + turn // num_planes) % num_levels
                shown = _shown(scene, settings, plane, level)
                elsewhere = _shown(scene, settings, other, its_level)
                # Of no effect, but a point must be given: not the one that would say too much.
                anywhere = {**elsewhere["camera"], "blur_fraction": 0.0}
                sharp = {"file": _ALL_IN_FOCUS, "camera": anywhere}
                asked = {
                    "add_bokeh": (sharp, shown),
                    "deblur": (shown, sharp),
                    "refocus": (elsewhere, shown),
                }
                core = plane == (level + turn) % num_planes
                rows += [
                    _row(scene, task, subset, told, reference, target, f"{PLANES[plane]}_{level}")
                    | {"core": core}
                    for task, (reference, target) in asked.items()
                ]
    return rows


def _shown(
    scene: PhotographedScene, settings: BenchmarkSettings, plane: int, level: int
) -> dict[str, Any]:
    """A photograph's file and camera."""
    camera = {
        "focus_disparity": scene.planes[plane].disparity,
        "blur_fraction": settings.blur_fractions[level],
        "point": list(scene.planes[plane].point),
    }
    return {"file": _photograph(plane, level), "camera": camera}


def _row(
    scene: PhotographedScene,
    task: str,
    subset: str,
    told: str | None,
    reference: dict[str, Any],
    target: dict[str, Any],
    name: str,
) -> Row:
    folder = _folder(scene)
    return {
        "name": f"{scene.number:04d}/{task}/{name}/{subset}",
        "scene": f"{scene.number:04d}",
        "task": task,
        "subset": subset,
        "image": f"{folder}/{reference['file']}",
        "truth": f"{folder}/{target['file']}",
        "all_in_focus": f"{folder}/{_ALL_IN_FOCUS}",
        "disparity": None if told is None else f"{folder}/{told}",
        "true_disparity": f"{folder}/{_TOLD['clean']}",
        "reference": reference["camera"],
        "target": target["camera"],
    }
