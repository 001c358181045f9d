"""Bodies and lenses, and how a scene stands before them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.layered import camera
from data_pipeline.layered.bodies import BODIES, LENSES, Body, LensModel, combinations
from data_pipeline.layered.camera import THIRD_STOPS, draw_shot, f_numbers, frame_width_mm


def test_the_table_holds_many_formats_and_every_body_has_a_lens():
    assert len(BODIES) >= 12
    assert len({body.name for body in BODIES}) == len(BODIES)
    widths = {round(body.sensor_mm[0], 1) for body in BODIES}
    assert {36.0, 22.3, 23.5, 17.3, 13.2, 43.8} <= widths
    assert {body for body, _ in combinations()} == set(BODIES)
    assert {mount for body in BODIES for mount in body.mounts} == set(LENSES)


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.name)
def test_pixels_are_square_and_of_a_real_size(body):
    pitches_um = [1e3 * mm / px for mm, px in zip(body.sensor_mm, body.pixels, strict=True)]
    assert pitches_um[0] == pytest.approx(pitches_um[1], rel=0.02)
    assert 1 < pitches_um[0] < 7


@pytest.mark.parametrize(
    "lens",
    sorted({lens for _, lens in combinations()}, key=lambda lens: lens.name),
    ids=lambda lens: lens.name,
)
def test_lenses_are_consistent(lens):
    short, long = lens.focal_lengths_mm
    assert short <= long
    for focal_mm, widest in zip((short, long), lens.widest_f_numbers, strict=True):
        assert lens.widest_f_number(focal_mm) == pytest.approx(widest)
        assert 1.2 <= widest <= lens.narrowest_f_number <= 32
    # A thin lens magnifies less than life size beyond two focal lengths.
    assert lens.closest_focus_m > 2 * short / 1e3
    # Lenses are named after their focal lengths.
    assert f"{short:g}" in lens.name
    stops = f_numbers(lens, short)
    assert stops[0] == lens.widest_f_numbers[0]
    assert list(stops) == sorted(set(stops))
    assert set(stops[1:]) <= set(THIRD_STOPS)
    assert stops[-1] <= lens.narrowest_f_number


def test_third_stops_are_the_named_ones():
    exact = [2 ** (k / 6) for k in range(len(THIRD_STOPS))]
    np.testing.assert_allclose(THIRD_STOPS, exact, rtol=0.06)


def test_a_zoom_between_its_ends_has_an_aperture_between_theirs():
    zoom = LensModel("zoom", (10.0, 40.0), (2.0, 4.0), 11.0, 0.2)
    assert zoom.widest_f_number(20.0) == pytest.approx(math.sqrt(8))
    assert f_numbers(zoom, 20.0)[0] == 2.8
    assert f_numbers(LensModel("phone", (4.0, 4.0), (1.8, 1.8), 1.8, 0.1), 4.0) == (1.8,)


@pytest.mark.parametrize(
    ("frame", "width_mm"),
    [
        ((40, 60), 36.0),
        ((60, 40), 24.0),
        ((50, 50), 24.0),
        ((45, 80), 36.0),
        ((80, 45), 36.0 * 45 / 80),
        ((60, 80), 32.0),
    ],
)
def test_a_frame_shows_the_middle_of_the_sensor(frame, width_mm):
    """3:2 sensor: 4:3 is cut from its height; upright frames from the camera held upright."""
    body = Body("any", (36.0, 24.0), (6000, 4000), ())
    assert frame_width_mm(body, frame) == pytest.approx(width_mm)
    height_mm = width_mm * frame[0] / frame[1]
    assert sorted((width_mm, height_mm))[0] <= 24 + 1e-9
    assert max(width_mm, height_mm) <= 36 + 1e-9


@settings(max_examples=80)
@given(
    seed=st.integers(0, 2**32 - 1),
    subject=st.floats(0.01, 0.99),
    share=st.floats(0.05, 1.0),
    deep=st.booleans(),
    limit=st.sampled_from([0.005, 0.05]),
    frame=st.sampled_from([(48, 48), (256, 256), (48, 72), (72, 48)]),
)
def test_every_shot_is_one_that_the_camera_can_take(seed, subject, share, deep, limit, frame):
    reach = share * max(subject, 1 - subject)
    limit_px = limit * frame[1]
    rng = np.random.default_rng(seed)
    shot = draw_shot(rng, frame, subject, reach, max_radius_px=limit_px, deep=deep)
    assert shot.lens in [lens for mount in shot.body.mounts for lens in LENSES[mount]]
    short, long = shot.lens.focal_lengths_mm
    assert short <= shot.focal_length_mm <= long
    assert shot.f_number in f_numbers(shot.lens, shot.focal_length_mm)
    assert not deep or shot.f_number >= camera.LEAST_DEEP
    assert shot.focus_distance_m >= shot.lens.closest_focus_m
    low, high = shot.disparity_range_per_m
    assert 0 <= low < high
    # The subject's own disparity is in focus.
    assert low + (high - low) * subject == pytest.approx(1 / shot.focus_distance_m, rel=1e-6)
    assert 1 / high >= camera.NEAREST * shot.focus_distance_m * (1 - 1e-9)
    # The thin lens, by hand, in metres.
    focal, distance = shot.focal_length_mm / 1e3, shot.focus_distance_m
    blur_px = focal**2 / (2 * shot.f_number) * distance / (distance - focal)
    blur_px *= frame[1] / (shot.frame_width_mm / 1e3)
    assert float(shot.relative.blur_px) == pytest.approx(blur_px * (high - low), rel=1e-5)
    assert float(shot.relative.focus_disparity) == pytest.approx(subject, rel=1e-6)
    assert blur_px * (high - low) * reach <= limit_px * 1.0001
    if not deep and shot.f_number > camera.MOST_USUAL:
        wider = max(n for n in f_numbers(shot.lens, shot.focal_length_mm) if n < shot.f_number)
        assert blur_px * (high - low) * reach * shot.f_number / wider > limit_px * 0.9999
    exif = shot.exif
    assert exif.subject_distance_m is None
    sensor_mm = 36 * exif.focal_length_mm / exif.focal_length_35mm_mm
    assert sensor_mm == pytest.approx(shot.frame_width_mm)


def test_shots_spread_over_blurs_distances_and_bodies():
    shots = [
        draw_shot(np.random.default_rng(i), (256, 256), 0.7, 0.6, max_radius_px=12.8, deep=False)
        for i in range(200)
    ]
    radii = np.array([float(shot.relative.blur_px) * 0.6 for shot in shots])
    assert np.quantile(radii, 0.9) > 6
    assert np.quantile(radii, 0.5) > 1
    assert np.quantile(radii, 0.1) < 0.6
    distances = [shot.focus_distance_m for shot in shots]
    assert np.quantile(distances, 0.9) > 8 * np.quantile(distances, 0.1)
    assert {shot.body for shot in shots} == set(BODIES)
    fields = [s.frame_width_mm * (s.focus_distance_m / s.focal_length_mm - 1e-3) for s in shots]
    assert np.median(fields) == pytest.approx(0.5, rel=0.5)
    wide_open = [s.f_number == f_numbers(s.lens, s.focal_length_mm)[0] for s in shots]
    assert 0.15 < np.mean(wide_open) < 0.7
    assert max(shot.f_number for shot in shots) > 8
