"""The generated benchmark as files: what a folder holds, whether it is whole, and its questions.

    benchmark.json      name, version, recipe, counts, every scene, fingerprint
    questions.jsonl     one question a line; paths of its pictures, cameras
    SHA256SUMS          digest of questions.jsonl and of every picture, as `sha256sum` writes it
    scenes/0007/        all_in_focus.png, near_0.png ... far_2.png (plane and blur level),
                        disparity.png, damaged.png

Photographs are PNG of 8 bits, sRGB-encoded. Disparity is PNG of 16 bits, 65535 is 1. A camera is
`focus_disparity` (true, relative), `blur_fraction` (K over the width) and `point` (x, y).

Nothing is read that was not checked: the fingerprint is the SHA-256 of benchmark.json without
itself (and without `made_with`), which holds the digest of SHA256SUMS, which holds those of the
files. Two folders of one fingerprint hold the same bytes.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bokeh_jax.errors import InvalidInput
from bokeh_jax.evaluation.questions import TASKS, Question
from bokeh_jax.optics import Lens
from data_pipeline.image_codecs import decode_png

NAME = "refocus-bench"
# Raise it whenever the same recipe would give other questions or other pictures.
VERSION = 1
BENCHMARK_FILE = "benchmark.json"
QUESTIONS_FILE = "questions.jsonl"
SUMS_FILE = "SHA256SUMS"
SUBSETS = ("clean", "damaged_depth", "no_depth")
DISPARITY_SCALE = 65535
# Not part of the fingerprint.
_UNSIGNED = ("fingerprint", "made_with")
_WHOLE = "allowed: a whole benchmark (build it again into a new folder)"


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A benchmark folder whose table of contents is whole.

    Attributes:
        path: the folder.
        version: of the questions' definition.
        fingerprint: SHA-256, hexadecimal.
        recipe: what it was made from, JSON values.
        scenes: of every scene, JSON values.
        sums: SHA-256 of every file, by its path in the folder.
        rows: the questions, JSON values.
    """

    path: Path
    version: int
    fingerprint: str
    recipe: Mapping[str, Any]
    scenes: Sequence[Mapping[str, Any]]
    sums: Mapping[str, str]
    rows: Sequence[Mapping[str, Any]]

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Number of questions by subset and task."""
        return count_rows(self.rows)

    def read(self, name: str) -> bytes:
        """A file's bytes.

        Raises:
            InvalidInput: it is missing, or its bytes are not those that were written.
        """
        return _checked(self.path / name, self.sums.get(name))


def count_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Number of rows by subset and task."""
    return {
        subset: {
            task: sum(row["subset"] == subset and row["task"] == task for row in rows)
            for task in TASKS
        }
        for subset in SUBSETS
    }


def sha256(data: bytes) -> str:
    """Digest, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def fingerprint(contents: Mapping[str, Any]) -> str:
    """Digest of benchmark.json's content, without what does not count."""
    signed = {key: value for key, value in contents.items() if key not in _UNSIGNED}
    return sha256(json.dumps(signed, sort_keys=True, separators=(",", ":")).encode())


def open_benchmark(path: str | Path) -> Benchmark:
    """Reads a folder's table of contents; pictures are checked when they are read.

    Raises:
        InvalidInput: no benchmark there, of another version, or not whole.
    """
    path = Path(path)
    if not (path / BENCHMARK_FILE).is_file():
        raise InvalidInput(
            f"benchmark {path} has no {BENCHMARK_FILE}; allowed: a folder that "
            "'bokeh-jax data benchmark' has written"
        )
    contents = _json(path / BENCHMARK_FILE, _checked(path / BENCHMARK_FILE, None))
    if not isinstance(contents, dict) or contents.get("name") != NAME:
        raise InvalidInput(f"benchmark file {path / BENCHMARK_FILE} is no {NAME}; {_WHOLE}")
    if contents.get("version") != VERSION:
        raise InvalidInput(
            f"benchmark {path} has version {contents.get('version')}; allowed: {VERSION}"
        )
    if contents.get("fingerprint") != fingerprint(contents):
        raise InvalidInput(
            f"benchmark file {path / BENCHMARK_FILE} does not match its fingerprint; {_WHOLE}"
        )
    lines = _checked(path / SUMS_FILE, contents["sums_sha256"]).decode().splitlines()
    sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    rows = _checked(path / QUESTIONS_FILE, sums.get(QUESTIONS_FILE)).decode().splitlines()
    return Benchmark(
        path=path,
        version=VERSION,
        fingerprint=contents["fingerprint"],
        recipe=contents["recipe"],
        scenes=contents["scenes"],
        sums=sums,
        rows=[json.loads(row) for row in rows],
    )


def verify_benchmark(path: str | Path) -> Benchmark:
    """Reads every byte of a folder.

    Raises:
        InvalidInput: naming the first file that is missing, damaged, or not the benchmark's.
    """
    benchmark = open_benchmark(path)
    for name in benchmark.sums:
        benchmark.read(name)
    known = {BENCHMARK_FILE, SUMS_FILE, *benchmark.sums}
    for file in sorted(benchmark.path.rglob("*")):
        name = file.relative_to(benchmark.path).as_posix()
        if file.is_file() and name not in known:
            raise InvalidInput(f"file {file} is not in {SUMS_FILE}; allowed: the benchmark's own")
    return benchmark


def load_benchmark(
    path: str | Path,
    *,
    tasks: Sequence[str] = TASKS,
    subsets: Sequence[str] = SUBSETS,
    core: bool = False,
    num_scenes: int | None = None,
    names: Container[str] | None = None,
) -> Iterator[Question]:
    """Questions of a benchmark, scene by scene; every picture is checked as it is read.

    Args:
        path: the folder.
        tasks: which of them.
        subsets: which of them.
        core: only the third in which every plane, blur level and task occurs equally often.
        num_scenes: only the first so many; None for all.
        names: only questions of these names; None for all.

    Raises:
        InvalidInput: an unknown task or subset, no scenes, or a folder that is not whole.
    """
    for given, name, allowed in ((tasks, "task", TASKS), (subsets, "subset", SUBSETS)):
        for value in given:
            if value not in allowed:
                raise InvalidInput(f"{name} is {value!r}; allowed: {', '.join(allowed)}")
    if num_scenes is not None and num_scenes < 1:
        raise InvalidInput(f"num_scenes is {num_scenes}; allowed: 1 or more, or None for all")
    benchmark = open_benchmark(path)
    scenes = {scene["scene"] for scene in benchmark.scenes[:num_scenes]}
    rows = [
        row
        for row in benchmark.rows
        if row["task"] in tasks
        and row["subset"] in subsets
        and row["scene"] in scenes
        and (row["core"] or not core)
        and (names is None or row["name"] in names)
    ]
    return _questions(benchmark, rows)


def _questions(benchmark: Benchmark, rows: list[Mapping[str, Any]]) -> Iterator[Question]:
    # The pictures of a scene, each asked for by many questions.
    pictures = functools.lru_cache(maxsize=16)(functools.partial(_picture, benchmark))
    for row in rows:
        yield _question(row, pictures)


def _question(row: Mapping[str, Any], pictures: Callable[[str], np.ndarray]) -> Question:
    image = pictures(row["image"])
    told = row["disparity"]
    return Question(
        name=row["name"],
        scene=row["scene"],
        task=row["task"],
        subset=row["subset"],
        image=image,
        truth=pictures(row["truth"]),
        disparity=None if told is None else pictures(told),
        true_disparity=pictures(row["true_disparity"]),
        all_in_focus=pictures(row["all_in_focus"]),
        reference=_lens(row["reference"], image.shape[1]),
        target=_lens(row["target"], image.shape[1]),
        reference_point=tuple(row["reference"]["point"]),
        focus_point=tuple(row["target"]["point"]),
    )


def _lens(camera: Mapping[str, Any], width_px: int) -> Lens:
    return Lens(
        focus_disparity=camera["focus_disparity"], blur_px=camera["blur_fraction"] * width_px
    )


def _picture(benchmark: Benchmark, name: str) -> np.ndarray:
    """A photograph, or a disparity map, as float32 in [0, 1]."""
    values = decode_png(benchmark.read(name))
    scale = DISPARITY_SCALE if values.dtype == np.uint16 else 255
    picture = values.astype(np.float32) / np.float32(scale)
    # Questions share it.
    picture.flags.writeable = False
    return picture


def _checked(file: Path, digest: str | None) -> bytes:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InvalidInput(
            f"benchmark file {file} cannot be read ({error.strerror}); {_WHOLE}"
        ) from None
    if digest is not None and sha256(data) != digest:
        raise InvalidInput(f"benchmark file {file} does not match its SHA-256; {_WHOLE}")
    return data


def _json(file: Path, data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        raise InvalidInput(f"benchmark file {file} is no JSON; {_WHOLE}") from None
