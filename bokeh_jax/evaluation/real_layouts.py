"""Where the files of real data lie: the published folder structures, and two plain ones of ours.

    dpdd       {train,val,test}_c/{source,target}/*.png, 16 bits. Deblur: f/4 -> f/22, 76 for test.
               Abuolaim & Brown, "Defocus deblurring using dual-pixel data", ECCV 2020. Structure as
               configured in codeslake/IFAN (configs/config.py), where source and target are paired
               by their order.
    realdof    {source,target}/*.png. Deblur, 50 scenes. Lee et al., "Iterative filter adaptive
               network for single image defocus deblurring", CVPR 2021; structure: the same file.
    ebb        {Training,train}/{original,bokeh}/N.jpg. Add bokeh: f/16 -> f/1.8. Ignatov et al.,
               "Rendering natural camera bokeh effect with deep learning", CVPRW 2020; structure as
               read by aiff22/PyNET-Bokeh (load_dataset.py: train/) and listed in
               saikatdutta/Stacked_DMSHN_bokeh (data/test.csv: Training/), whose 4400 to 4693 are
               Val294. The challenge's own validation and test photographs have no public truth.
    realbokeh  {train,validation,test}/metadata/ID.json naming in/ID_f22.JPG and gt/ID/ID_fN.JPG.
               Add bokeh: f/22 -> f/2.0 ... f/20. Seizinger et al., "Bokehlicious", ICCV 2025;
               structure of the published timseizinger/RealBokeh_3MP.
    blb        SCENE/{image,depth}.exr, info.json, bokeh_KK_FF.exr. All three tasks: 10 scenes,
               5 blur levels, 10 planes. Peng et al., "BokehMe", CVPR 2022; files as read by
               FreeButUselessSoul/bokehdiff (dataset.py), K and focus as their author explains
               (JuewenPeng/BokehMe, issues 4 and 13): radius = blur_parameters[KK] |1 / depth -
               1 / focus_distances[FF]|, in pixels of the rendered pictures.
    stack      focal stacks, slice i -> slice j: the folder, or each folder in it, holds NAME1.jpg,
               NAME2.jpg, ... (and all_in_focus.*, expected.*).
    triples    {all_in_focus,disparity,defocused}/NAME.*, and cameras.jsonl where known.

No set but BLB and `triples` says what its lens does in pixels of blur, so there K is unknown.
"""

import itertools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bokeh_jax.errors import InvalidInput
from bokeh_jax.evaluation.real_images import IMAGE_SUFFIXES, MAP_SUFFIXES
from bokeh_jax.evaluation.real_sets import ALL_IN_FOCUS, RealLens, RealQuestion, RealSet

Rows = Sequence[RealQuestion]
# Of EBB!'s training photographs: what the literature holds out.
_VAL294 = range(4400, 4694)
_NUMBERED = re.compile(r"(.*?)(\d+)")
_SHARP_NAMES = ("all_in_focus", "expected")
_CAMERA_KEYS = ("name", "focus_disparity", "blur_px", "point")


def _dpdd(folder: Path, split: str) -> Rows:
    return _pairs(folder / f"{split}_c", "dpdd")


def _realdof(folder: Path, split: str) -> Rows:
    return _pairs(folder, "realdof")


def _pairs(folder: Path, kind: str) -> Rows:
    """Deblurring by pairs: the n-th file of source and of target, as their names are ordered."""
    sources, targets = (_files(folder / name, kind) for name in ("source", "target"))
    if len(sources) != len(targets):
        raise InvalidInput(
            f"folder {folder} has {len(sources)} files in source and {len(targets)} in target; "
            f"allowed for {kind}: as many of each"
        )
    return [
        RealQuestion(
            name=f"{kind}/{source.stem}",
            scene=source.stem,
            task="deblur",
            subset=kind,
            image=source,
            truth=target,
            all_in_focus=target,
            target=ALL_IN_FOCUS,
        )
        for source, target in zip(sources, targets, strict=True)
    ]


def _ebb(folder: Path, split: str) -> Rows:
    inside = next((folder / n for n in ("Training", "train") if (folder / n).is_dir()), folder)
    sharp = {path.stem: path for path in _files(inside / "original", "ebb")}
    blurred = {path.stem: path for path in _files(inside / "bokeh", "ebb")}
    rows = [
        _add_bokeh("ebb", stem, stem, sharp[stem], blurred[stem])
        for stem in _same(sharp, blurred, inside, ("original", "bokeh"))
        if split == "all" or (stem.isdecimal() and int(stem) in _VAL294) == (split == "val294")
    ]
    if not rows:
        raise InvalidInput(
            f"folder {inside} has no photographs of split {split}; allowed: "
            f"{_VAL294[0]}.jpg to {_VAL294[-1]}.jpg for val294, or split all"
        )
    return rows


def _add_bokeh(kind: str, name: str, scene: str, sharp: Path, blurred: Path) -> RealQuestion:
    return RealQuestion(
        name=f"{kind}/{name}",
        scene=scene,
        task="add_bokeh",
        subset=kind,
        image=sharp,
        truth=blurred,
        all_in_focus=sharp,
        reference=ALL_IN_FOCUS,
    )


def _realbokeh(folder: Path, split: str) -> Rows:
    inside = folder / split
    rows = []
    for listed in _files(inside / "metadata", "realbokeh", (".json",)):
        said = _object(listed, ("source_image", "target_images"))
        sharp = _present(inside / said["source_image"], listed)
        for name in said["target_images"]:
            blurred = _present(inside / name, listed)
            rows.append(_add_bokeh("realbokeh", blurred.stem, listed.stem, sharp, blurred))
    return rows


def _blb(folder: Path, split: str) -> Rows:
    scenes = sorted((path.parent for path in folder.glob("*/info.json")), key=_natural)
    if not scenes:
        raise InvalidInput(f"folder {folder} has no scenes; allowed for blb: {_PATTERNS['blb']}")
    return [row for scene in scenes for row in _blb_scene(scene)]


def _blb_scene(scene: Path) -> list[RealQuestion]:
    listed = scene / "info.json"
    said = _object(listed, ("blur_parameters", "focus_distances"))
    sharp, depth = (_present(scene / name, listed) for name in ("image.exr", "depth.exr"))
    blurs, distances = (
        [_numbers(value, f"{key} in {listed}", 1) for value in said[key]]
        for key in ("blur_parameters", "focus_distances")
    )
    rows = []
    for (level, blur_px), plane in itertools.product(enumerate(blurs), range(len(distances))):
        # The photograph that is refocused is focused half of the stack away.
        other = (plane + len(distances) // 2) % len(distances)
        lens, its_lens = (
            RealLens(focus_disparity=1.0 / distances[index], blur_px=blur_px)
            for index in (plane, other)
        )
        blurred, elsewhere = (
            _present(scene / f"bokeh_{level:02d}_{index:02d}.exr", listed)
            for index in (plane, other)
        )
        asked = {
            "add_bokeh": (sharp, ALL_IN_FOCUS, blurred, lens),
            "deblur": (blurred, lens, sharp, ALL_IN_FOCUS),
            "refocus": (elsewhere, its_lens, blurred, lens),
        }
        rows += [
            RealQuestion(
                name=f"blb/{scene.name}/{task}/{level:02d}_{plane:02d}",
                scene=scene.name,
                task=task,
                subset="blb",
                image=image,
                truth=truth,
                all_in_focus=sharp,
                disparity=depth,
                is_depth=True,
                reference=reference,
                target=target,
            )
            for task, (image, reference, truth, target) in asked.items()
        ]
    return rows


def _stack(folder: Path, split: str) -> Rows:
    inside = [folder, *sorted((path for path in folder.iterdir() if path.is_dir()), key=_natural)]
    rows = [row for each in inside for row in _stack_pairs(each)]
    if not rows:
        raise InvalidInput(f"folder {folder} has no stack; allowed: {_PATTERNS['stack']}")
    return rows


def _stack_pairs(folder: Path) -> list[RealQuestion]:
    """Every ordered pair of the slices in a folder: the most files that differ by their number."""
    series: dict[tuple[str, str], list[Path]] = {}
    for path in _images(folder, IMAGE_SUFFIXES):
        found = _NUMBERED.fullmatch(path.stem)
        if found is not None:
            series.setdefault((found[1], path.suffix.lower()), []).append(path)
    slices = max(series.values(), key=len, default=[])
    sharp = [path for path in _images(folder, IMAGE_SUFFIXES) if path.stem in _SHARP_NAMES]
    return [
        RealQuestion(
            name=f"stack/{folder.name}/{image.stem}-{truth.stem}",
            scene=folder.name,
            task="refocus",
            subset="stack",
            image=image,
            truth=truth,
            all_in_focus=sharp[0] if sharp else None,
            stack=tuple(slices),
        )
        for image, truth in itertools.permutations(slices, 2)
    ]


def _triples(folder: Path, split: str) -> Rows:
    parts = ("all_in_focus", "disparity", "defocused")
    sharp, maps, blurred = (
        {path.stem: path for path in _files(folder / name, "triples", suffixes)}
        for name, suffixes in zip(
            parts, (IMAGE_SUFFIXES, MAP_SUFFIXES, IMAGE_SUFFIXES), strict=True
        )
    )
    _same(sharp, maps, folder, parts[:2])
    cameras, rows = _cameras(folder / "cameras.jsonl"), []
    for stem in _same(sharp, blurred, folder, (parts[0], parts[2])):
        camera = cameras.get(stem, {})
        lens = None
        if "blur_px" in camera and "focus_disparity" in camera:
            lens = RealLens(focus_disparity=camera["focus_disparity"], blur_px=camera["blur_px"])
        point = camera.get("point")
        for task, image, truth, reference, target in (
            ("add_bokeh", sharp[stem], blurred[stem], ALL_IN_FOCUS, lens),
            ("deblur", blurred[stem], sharp[stem], lens, ALL_IN_FOCUS),
        ):
            rows.append(
                RealQuestion(
                    name=f"triples/{task}/{stem}",
                    scene=stem,
                    task=task,
                    subset="triples",
                    image=image,
                    truth=truth,
                    all_in_focus=sharp[stem],
                    disparity=maps[stem],
                    reference=reference,
                    target=target,
                    focus_point=point if task == "add_bokeh" else None,
                )
            )
    return rows


def _cameras(path: Path) -> dict[str, dict[str, Any]]:
    """Cameras by the name of their photograph; none where there is no such file."""
    if not path.is_file():
        return {}
    cameras = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        try:
            said = json.loads(line)
        except ValueError:
            said = None
        if not isinstance(said, dict) or "name" not in said or set(said) - set(_CAMERA_KEYS):
            raise InvalidInput(
                f"file {path} line {number} is {line[:60]}; allowed: an object of name and any of "
                f"{', '.join(_CAMERA_KEYS[1:])}"
            )
        cameras[said["name"]] = {
            key: _numbers(value, f"{key} in {path} line {number}", 2 if key == "point" else 1)
            for key, value in said.items()
            if key != "name"
        }
    return cameras


def _numbers(value: Any, what: str, count: int) -> Any:
    """A number, or a tuple of so many."""
    values = [value] if count == 1 else value
    if (
        not isinstance(values, list)
        or len(values) != count
        or not all(type(each) in (int, float) and math.isfinite(each) for each in values)
    ):
        raise InvalidInput(f"{what} is {value!r}; allowed: {count} finite numbers")
    numbers = tuple(float(each) for each in values)
    return numbers if count > 1 else numbers[0]


def _object(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    try:
        said = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        said = None
    if not isinstance(said, dict) or any(key not in said for key in keys):
        raise InvalidInput(f"file {path} is damaged; allowed: JSON with {', '.join(keys)}")
    return said


def _present(path: Path, listed: Path) -> Path:
    if not path.is_file():
        raise InvalidInput(f"file {path} not found; allowed: all that {listed} names")
    return path


def _same(
    first: Mapping[str, Path], second: Mapping[str, Path], folder: Path, names: Sequence[str]
) -> list[str]:
    """Names that both have, in order; InvalidInput where one has a name that the other lacks."""
    for here, there, where in ((first, second, names[1]), (second, first, names[0])):
        for stem in here:
            if stem not in there:
                raise InvalidInput(
                    f"folder {folder / where} lacks {stem}.*; allowed: a file for each in "
                    f"{folder / (names[0] if where == names[1] else names[1])}"
                )
    return sorted(first, key=lambda stem: _natural(Path(stem)))


def _files(folder: Path, kind: str, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> list[Path]:
    """Files of a folder that must have some, in the natural order of their names."""
    found = _images(folder, suffixes) if folder.is_dir() else []
    if not found:
        what = "has no files" if folder.is_dir() else "not found"
        raise InvalidInput(f"folder {folder} {what}; allowed for {kind}: {_PATTERNS[kind]}")
    return found


def _images(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    found = (p for p in folder.iterdir() if p.suffix.lower() in suffixes and p.is_file())
    return sorted((p for p in found if not p.name.startswith(".")), key=_natural)


def _natural(path: Path) -> tuple[tuple[int, str], ...]:
    """Orders 2 before 10."""
    parts = re.findall(r"\d+|\D+", path.name)
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in parts)


_PATTERNS = {
    "dpdd": "{train,val,test}_c/source/*.png and {train,val,test}_c/target/*.png",
    "realdof": "source/*.png and target/*.png",
    "ebb": "Training/original/N.jpg and Training/bokeh/N.jpg (or train/)",
    "realbokeh": "{train,validation,test}/{metadata/ID.json,in/ID_f22.JPG,gt/ID/ID_fN.JPG}",
    "blb": "SCENE/{info.json,image.exr,depth.exr,bokeh_KK_FF.exr}",
    "stack": "two or more of NAME1.jpg, NAME2.jpg, ... in it or in folders of it",
    "triples": "all_in_focus/NAME.*, disparity/NAME.* and defocused/NAME.*",
}
_LAYOUTS: Mapping[str, tuple[Callable[[Path, str], Rows], tuple[str, ...]]] = {
    "dpdd": (_dpdd, ("test", "val", "train")),
    "realdof": (_realdof, ("test",)),
    "ebb": (_ebb, ("val294", "train", "all")),
    "realbokeh": (_realbokeh, ("test", "validation", "train")),
    "blb": (_blb, ("all",)),
    "stack": (_stack, ("all",)),
    "triples": (_triples, ("all",)),
}
REAL_SETS: Mapping[str, RealSet] = {
    kind: RealSet(find, splits, _PATTERNS[kind]) for kind, (find, splits) in _LAYOUTS.items()
}
