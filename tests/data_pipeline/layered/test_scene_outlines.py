"""Outlines of things, and hair."""

import math

import numpy as np
import pytest

from data_pipeline.layered import silhouettes
from data_pipeline.layered.canvas import Canvas
from data_pipeline.layered.hair import WIDTH_PX
from data_pipeline.layered.silhouettes import draw_silhouette

SIZE_PX = 32


@pytest.mark.parametrize("radius", [0.125, 0.25, 0.4375])
def test_disc_has_the_area_of_a_disc(radius):
    covered = silhouettes.disc(Canvas(64, 64), radius).alpha.mean() / 255
    assert covered == pytest.approx(math.pi * radius**2, rel=0.01)


@pytest.mark.parametrize("kind", sorted(silhouettes.SILHOUETTES))
def test_silhouettes_are_sharp_antialiased_and_varied(kind):
    rng = np.random.default_rng(1)
    alphas = np.stack(
        [draw_silhouette(rng, kind, Canvas(SIZE_PX, SIZE_PX)).alpha for _ in range(24)]
    )
    assert len({alpha.tobytes() for alpha in alphas}) == 24
    covered = (alphas / 255).mean(axis=(1, 2))
    assert (covered > 0.005).all()
    assert (covered < 0.97).all()
    # Mostly inside or outside, and partly covered only along outlines.
    partial = (alphas > 0) & (alphas < 255)
    assert partial.any(axis=(1, 2)).all()
    assert partial.mean() < 0.5
    assert (alphas == 0).any()
    assert (alphas > 200).any()


def test_alpha_is_the_covered_fraction():
    """A pixel's alpha is the mean over it of the same shape drawn eight times finer."""
    coarse = draw_silhouette(np.random.default_rng(5), "star", Canvas(32, 32)).alpha
    fine = draw_silhouette(np.random.default_rng(5), "star", Canvas(256, 256)).alpha
    averaged = fine.reshape(32, 8, 32, 8).mean(axis=(1, 3))
    # An outline shifts by at most half a fine cell of 1/8 pixel.
    assert np.abs(coarse - averaged).max() < 255 / 8 + 1
    assert np.abs(coarse - averaged).mean() < 2


@pytest.mark.parametrize("kind", [*sorted(silhouettes.SILHOUETTES), "hair"])
@pytest.mark.parametrize("frame", [(24, 48), (48, 24)])
def test_outlines_fill_frames_of_all_proportions(kind, frame):
    """Over many draws something is seen in every quarter of a wide and of a tall frame."""
    rng = np.random.default_rng(2)
    outlines = [draw_silhouette(rng, kind, Canvas(*frame)) for _ in range(30)]
    assert {outline.alpha.shape for outline in outlines} == {frame}
    assert {outline.kind for outline in outlines} == {kind}
    seen = np.mean([outline.alpha > 0 for outline in outlines], axis=0)
    halves = seen[: frame[0] // 2], seen[frame[0] // 2 :]
    quarters = [q for half in halves for q in np.array_split(half, 2, axis=1)]
    assert min(quarter.mean() for quarter in quarters) > 0.05


def test_things_are_as_large_in_frames_of_all_proportions():
    canvases = [Canvas(32, 32), Canvas(16, 64), Canvas(64, 16)]
    areas = [silhouettes.disc(c, 0.2).alpha.sum() / 255 for c in canvases]
    np.testing.assert_allclose(areas, math.pi * 0.2**2 * 32**2, rtol=0.02)


def test_words_say_what_was_drawn():
    rng = np.random.default_rng(0)
    canvas = Canvas(16, 16)
    words = {
        kind: {draw_silhouette(rng, kind, canvas).words for _ in range(40)}
        for kind in ("star", "glyphs", "ring", "polygon", "fence")
    }
    assert "a five-pointed star" in words["star"]
    assert "an eight-pointed star" in words["star"]
    assert {"a ring", "a disc with two holes"} < words["ring"]
    assert "a triangle" in words["polygon"]
    assert words["fence"] == {"a fence", "a lattice"}
    assert all(word.startswith("the sign") and word.endswith('"') for word in words["glyphs"])


def test_hairs_are_thinner_than_a_pixel_and_taper():
    """Between hairs and along them, far more pixels are covered in part than in full."""
    rng = np.random.default_rng(3)
    for _ in range(10):
        outline = draw_silhouette(rng, "hair", Canvas(100, 100))
        alpha = outline.alpha / 255
        assert 0.01 < alpha.mean() < 0.6
        if outline.words == "a tuft of hair":
            partial = ((alpha > 0) & (alpha < 1)).sum()
            assert partial > 1.5 * (alpha == 1).sum()
            # Tips cover less of a pixel than roots could.
            assert (alpha[alpha > 0] < WIDTH_PX[0]).mean() > 0.2


def test_a_single_hair_covers_the_area_of_a_tapering_strand():
    from data_pipeline.layered.hair import _outlines

    outline = _outlines(
        np.array([[10.0, 20.0]]),
        np.array([0.3]),
        np.array([50.0]),
        np.array([0.0]),
        np.array([4.0]),
    )[0]
    x, y = outline.T
    area = 0.5 * abs(x @ np.roll(y, 1) - y @ np.roll(x, 1))
    assert area == pytest.approx(50 * 4 / 2)
    tip = outline[len(outline) // 2]
    np.testing.assert_allclose(tip, [10 + 50 * math.cos(0.3), 20 + 50 * math.sin(0.3)], atol=1e-9)


def test_large_frames_are_drawn_less_finely():
    assert Canvas(128, 128).size == (1024, 1024)
    assert Canvas(160, 160).size == (640, 640)
