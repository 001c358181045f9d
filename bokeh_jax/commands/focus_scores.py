"""What `bokeh-jax eval` writes and prints of a run that finds focus."""

import csv
from pathlib import Path
from typing import Any

from bokeh_jax.evaluation.focus import MODEL, NAMES, SHOWN, WITHIN, FocusResult, summary, summary_of
from bokeh_jax.evaluation.metrics import Mean
from bokeh_jax.inference.photo_file import Photo, write_photo
from bokeh_jax.training.panels import grid

PHOTOGRAPHS_FILE = "photographs.csv"


def write_answers(folder: Path, results: list[FocusResult]) -> dict[str, Any]:
    """`photographs.csv`, a row a photograph, and SPLIT-attention.png: rows of `SHOWN`.

    Returns:
        The scores.
    """
    with (folder / PHOTOGRAPHS_FILE).open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("split", "photograph", "hidden_focus", *NAMES, "uncertainty", "octaves"))
        for result in results:
            for index, truth in enumerate(result.truth):
                answers = (result.focus[name][index] for name in NAMES)
                values = (truth, *answers, result.uncertainty[index], result.octaves[index])
                table.writerow((result.split, index, *(f"{value:.5f}" for value in values)))
    for result in results:
        picture = Photo(grid(result.pictures, zoom=3))
        write_photo(folder / f"{result.split}-attention.png", picture)
    return summary(results)


def print_answers(step: int, results: list[FocusResult]) -> None:
    """One row a method."""
    print(f"step {step}; % of photographs within a share of the hidden distance, 95 % intervals")
    for result in results:
        scores = summary_of(result)
        print(f"{result.split} ({scores['images']} photographs)")
        heads = "".join(f"{f'within {100 * share:g} %':>20}" for share in WITHIN)
        print(f"  {'':50}{heads}{'|disparity error|':>20}")
        for name, text in NAMES.items():
            cells = [_percent(scores["within"][f"{share:g}"][name]) for share in WITHIN]
            error = Mean(**scores["disparity_error"][name])
            cells.append(f"{error.mean:.3f} ± {error.half_width:.3f}")
            print(f"  {text:50}" + "".join(f"{cell:>20}" for cell in cells))
        blur = Mean(**scores["blur_octaves_error"])
        print(f"  {NAMES[MODEL]}: blur K within {blur} octaves on average;")
        surer, other = scores["surer_half_within"], scores["other_half_within"]
        said = "" if other is None else f", {_percent(other)} in the other"
        print(f"  within {100 * WITHIN[-1]:g} %: {_percent(surer)} in the surer half{said}")
    print(f"pictures, from left to right: {', '.join(SHOWN)}")


def _percent(tree: dict[str, float]) -> str:
    return f"{100 * tree['mean']:.1f} ± {100 * tree['half_width']:.1f}"
