"""What a photographer focuses on, and how much blur there must be, are settings."""

import collections

import numpy as np
import pytest

from bokeh_jax.cli import main
from bokeh_jax.errors import InvalidInput
from data_pipeline.layered.camera import draw_shot
from data_pipeline.layered.parts import Part
from data_pipeline.layered.photographer import PhotographerSource
from data_pipeline.layered.subjects import USUAL, Habits, choose_subject

FRAME = (48, 48)


def shot(seed, least_radius_px, deep=False):
    rng = np.random.default_rng(seed)
    return draw_shot(
        rng, FRAME, 0.6, 0.4, max_radius_px=4.8, deep=deep, least_radius_px=least_radius_px
    )


def test_photographs_have_the_least_blur_unless_they_are_deep():
    widest = [float(shot(seed, 2.4).relative.blur_px) * 0.4 for seed in range(12)]
    assert min(widest) >= 2.4
    assert max(widest) <= 4.8 * 1.0001
    usual = [float(shot(seed, 0.0).relative.blur_px) * 0.4 for seed in range(12)]
    assert np.median(usual) < 1.0
    # The first camera that does is taken; a deep photograph takes the first of all.
    assert shot(3, 1e-9).exif == shot(3, 0.0).exif
    assert shot(3, 2.4, deep=True).exif == shot(3, 0.0, deep=True).exif


def test_where_no_camera_has_the_least_blur_the_widest_is_taken():
    # More than the largest that is allowed: all are tried.
    found = [float(shot(seed, 5.0).relative.blur_px) * 0.4 for seed in range(3)]
    assert min(found) > 2.4
    assert max(found) <= 4.8 * 1.0001


@pytest.fixture
def parts():
    """Near at the left, a thing behind it in the middle, the backdrop."""
    seen = np.zeros((3, 24, 24))
    seen[0, 8:16, 0:6], seen[1, 8:16, 9:15] = 1, 1
    seen[2] = 1 - seen[0] - seen[1]
    roles = ("thing", "thing", "backdrop")
    made = [Part.__new__(Part) for _ in roles]
    for part, role in zip(made, roles, strict=True):
        object.__setattr__(part, "role", role)
    return tuple(made), seen


def chosen_of(seed, parts, *habits: Habits):
    made, seen = parts
    return choose_subject(np.random.default_rng(seed), made, seen, *habits)


@pytest.mark.parametrize(
    ("habits", "layers"),
    [
        (Habits(1, 0, 0), {0}),
        (Habits(0, 2, 0), {1}),
        (Habits(0, 0, 0.1), {0, 1, 2}),
    ],
)
def test_habits_choose_the_subject(parts, habits, layers):
    chosen = {chosen_of(seed, parts, habits).layer for seed in range(40)}
    assert chosen == layers


def test_weights_are_relative(parts):
    counts = collections.Counter(
        chosen_of(seed, parts, Habits(30, 10, 0)).layer for seed in range(400)
    )
    assert 0.68 < counts[0] / 400 < 0.82
    usual = [chosen_of(seed, parts).layer for seed in range(40)]
    assert usual == [chosen_of(seed, parts, USUAL).layer for seed in range(40)]


def test_settings_are_part_of_the_recipe():
    sources = (
        PhotographerSource(),
        PhotographerSource(least_blur_fraction=0.02),
        PhotographerSource(habits=Habits(1, 1, 1)),
    )
    recipes = [source.recipe() for source in sources]
    assert len({str(recipe) for recipe in recipes}) == 3


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--photographer-blur=0.1"], "--photographer-blur is '0.1'; allowed: LEAST:MOST"),
        (["--photographer-blur=x:0.1"], "--photographer-blur is 'x'; allowed: a number"),
        (["--photographer-blur=0.1:0.1"], "least_blur_fraction is 0.1; allowed: 0 to 0.075"),
        (["--photographer-deep=2"], "deep_rate is 2.0; allowed: 0 to 1"),
        (
            ["--photographer-subjects=nearest=1,left=2"],
            "--photographer-subjects has 'left'; allowed: nearest, central, any",
        ),
        (
            ["--photographer-subjects=any=0"],
            "weights of nearest, central and any subjects are 0.0, 0.0, 0.0; allowed: 0 or more",
        ),
    ],
)
def test_bad_settings_are_refused(capsys, tmp_path, flags, said):
    command = ["data", "build", "--source=photographer=2", f"--out={tmp_path / 'out'}", *flags]
    assert main(command) == 2
    assert said in capsys.readouterr().err


def test_a_source_refuses_what_is_no_number():
    with pytest.raises(InvalidInput, match="weights of nearest, central and any subjects are nan"):
        PhotographerSource(habits=Habits(float("nan"), 0, 1))
