import numpy as np
import pytest

from bokeh_jax.evaluation.focus_points import flat_pixels, focus_planes, plane_near


def _steps(*parts: tuple[slice, slice, float]) -> np.ndarray:
    disparity = np.full((40, 60), 0.1, np.float32)
    for rows, columns, value in parts:
        disparity[rows, columns] = value
    return disparity


IMAGE = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
CHEQUERED = np.indices((40, 60)).sum(axis=0) % 2 == 1
NEAR = (slice(20, 40), slice(0, 20), 0.9)
MIDDLE = (slice(4, 24), slice(30, 58), 0.55)


def test_planes_lie_deep_inside_what_they_are_focused_on():
    disparity = _steps(MIDDLE, NEAR)
    planes = focus_planes(disparity, IMAGE, least_gap=0.15)
    assert planes is not None
    assert [plane.disparity for plane in planes] == pytest.approx([0.9, 0.55, 0.1])
    for plane in planes:
        row, column = int(plane.point[1] * 40), int(plane.point[0] * 60)
        around = disparity[row - 5 : row + 6, column - 5 : column + 6]
        assert around.shape == (11, 11)
        assert np.ptp(around) == 0
    # In the middle of its rectangle, whose corner is the frame's.
    assert planes[0].point == pytest.approx((10 / 60, 30 / 40), abs=0.03)


@pytest.mark.parametrize(
    ("disparity", "least_gap"),
    [
        (_steps(NEAR), 0.15),
        (_steps(MIDDLE, NEAR), 0.4),
        # What is near is all outlines.
        (np.where((_steps(NEAR) > 0.5) & CHEQUERED, np.float32(0.6), _steps(MIDDLE, NEAR)), 0.15),
    ],
)
def test_scenes_without_three_planes(disparity, least_gap):
    assert focus_planes(disparity, IMAGE, least_gap=least_gap) is None


def test_a_lonely_speck_is_no_plane():
    disparity = _steps(MIDDLE, NEAR, (slice(10, 12), slice(5, 7), 1.0))
    assert not flat_pixels(disparity)[10:12, 5:7].any()
    planes = focus_planes(disparity, IMAGE, least_gap=0.15)
    assert planes is not None
    assert planes[0].disparity == pytest.approx(0.9)


def test_a_plane_without_detail_is_no_plane():
    disparity, image = _steps(MIDDLE, NEAR), IMAGE.copy()
    image[20:, :20] = 90
    assert focus_planes(disparity, image, least_gap=0.15) is None
    image[28:, :12] = IMAGE[28:, :12]
    planes = focus_planes(disparity, image, least_gap=0.15)
    assert planes is not None
    assert planes[0].point[0] < 12 / 60
    assert planes[0].point[1] > 28 / 40


def test_a_plane_that_is_not_there_gives_the_closest():
    disparity = _steps(MIDDLE, NEAR)
    assert plane_near(disparity, 0.7, np.ones(disparity.shape, bool)).disparity == pytest.approx(
        0.55
    )
    assert plane_near(disparity, 0.7, disparity > 0.6).disparity == pytest.approx(0.9)
