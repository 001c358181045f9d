"""`bokeh-jax data benchmark` and `data questions`: builds, checks and draws what is asked."""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.progress import Progress

from bokeh_jax.errors import InvalidInput
from bokeh_jax.evaluation.benchmark import NAME, Benchmark, load_benchmark, verify_benchmark
from bokeh_jax.evaluation.benchmark_build import build_benchmark
from bokeh_jax.evaluation.benchmark_scenes import BenchmarkSettings
from bokeh_jax.evaluation.question_sheet import question_sheet
from bokeh_jax.evaluation.questions import Question
from bokeh_jax.evaluation.real_layouts import REAL_SETS
from bokeh_jax.evaluation.real_sets import find_questions, read_questions
from bokeh_jax.inference.photo_file import Photo, kind_of, write_photo
from data_pipeline.layered.texture_folder import folder_textures
from data_pipeline.layered.textures import load_textures

GENERATED = "benchmark"
# What shells give for SIGINT.
_INTERRUPTED = 130
_GOLDEN = (5**0.5 - 1) / 2
T = TypeVar("T")


def build(arguments: argparse.Namespace) -> None:
    """Builds the benchmark, or says that it is there already."""
    given: dict[str, Any] = {"scenes": arguments.scenes, "seed": arguments.seed}
    given["sizes_px"] = tuple(arguments.size) if arguments.size else None
    given["ratios"] = tuple(arguments.ratios.split(",")) if arguments.ratios else None
    given["blur_fractions"] = _numbers(arguments.blur) if arguments.blur else None
    settings = BenchmarkSettings(**{name: v for name, v in given.items() if v is not None})
    folder = arguments.textures
    textures = load_textures() if folder is None else folder_textures(folder)
    try:
        with Progress(disable=not sys.stdout.isatty()) as bar:
            task = bar.add_task("scenes", total=settings.scenes)
            benchmark, was_there = build_benchmark(
                settings,
                arguments.out,
                textures,
                on_scene=lambda done: bar.update(task, completed=done),
            )
    except KeyboardInterrupt:
        print("stopped; nothing is written", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    print(f"{'kept' if was_there else 'built'} {_described(benchmark)}")


def show_questions(arguments: argparse.Namespace) -> None:
    """Checks a folder, counts its questions, and draws some."""
    if arguments.rows < 1:
        raise InvalidInput(f"--rows is {arguments.rows}; allowed: 1 or more")
    if arguments.sheet is not None:
        kind_of(arguments.sheet)
    if arguments.kind == GENERATED:
        for name in ("split", "max_side"):
            if getattr(arguments, name) is not None:
                raise InvalidInput(
                    f"--{name.replace('_', '-')} is {getattr(arguments, name)}; allowed only with "
                    "--kind of real data"
                )
        benchmark = verify_benchmark(arguments.folder)
        print(f"whole: {_described(benchmark)}")
        names = {row["name"] for row in _spread(benchmark.rows, arguments.rows)}
        shown = load_benchmark(arguments.folder, names=names)
    else:
        if arguments.kind not in REAL_SETS:
            raise InvalidInput(
                f"--kind is {arguments.kind!r}; allowed: {GENERATED}, {', '.join(REAL_SETS)}"
            )
        found = find_questions(REAL_SETS, arguments.kind, arguments.folder, arguments.split)
        counts = Counter(question.task for question in found)
        listed = ", ".join(f"{task} {count}" for task, count in counts.items())
        scenes = len({question.scene for question in found})
        print(f"{arguments.kind} {arguments.folder}: {scenes} scenes; {listed}")
        shown = read_questions(_spread(found, arguments.rows), max_side_px=arguments.max_side)
    if arguments.sheet is not None:
        _draw(shown, arguments.sheet)


def _draw(questions: Iterator[Question], path: Path) -> None:
    write_photo(path, Photo(question_sheet(list(questions))))
    print(f"sheet: {path}")


def _spread(rows: Sequence[T], count: int) -> list[T]:
    """At most so many rows, from all over the list; no step of it that could miss a task."""
    if len(rows) <= count:
        return list(rows)
    return [
        rows[index] for index in sorted({int(i * _GOLDEN % 1 * len(rows)) for i in range(count)})
    ]


def _described(benchmark: Benchmark) -> str:
    """One line on a benchmark."""
    counts = "; ".join(
        f"{subset}: " + ", ".join(f"{task} {count}" for task, count in tasks.items())
        for subset, tasks in benchmark.counts.items()
    )
    return (
        f"{benchmark.path}: {NAME} version {benchmark.version}, {len(benchmark.scenes)} scenes; "
        f"{counts}; fingerprint {benchmark.fingerprint[:12]}"
    )


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InvalidInput(f"--blur is {text!r}; allowed: numbers such as 0.03,0.06") from None
