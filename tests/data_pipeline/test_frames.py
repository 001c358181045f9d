import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bokeh_jax.errors import InvalidInput
from data_pipeline.frames import ALL_RATIOS, FrameSizes, cover_box

LENGTHS = st.integers(1, 6000)


@given(LENGTHS, LENGTHS, st.integers(1, 512), st.integers(1, 512))
def test_the_box_lies_inside_in_the_middle_and_cannot_be_larger(height, width, high, wide):
    left, top, right, bottom = cover_box(height, width, (high, wide))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert (right - left) / (bottom - top) == pytest.approx(wide / high, rel=1e-6)
    assert left + right == pytest.approx(width, abs=1e-6)
    assert top + bottom == pytest.approx(height, abs=1e-6)
    # It touches two sides.
    assert min(left, top) < 1e-6


def test_frames_have_about_the_same_number_of_pixels():
    sizes = FrameSizes(sizes_px=(256,), ratios=ALL_RATIOS, multiple_px=16)
    assert sizes.frames() == (
        (256, 256),
        (224, 288),
        (288, 224),
        (208, 320),
        (320, 208),
        (192, 336),
        (336, 192),
    )
    for height, width in sizes.frames():
        assert math.sqrt(height * width) == pytest.approx(256, rel=0.04)


@pytest.mark.parametrize(
    ("height", "width", "frame"),
    [
        (3000, 3500, (96, 96)),
        (1000, 1510, (80, 112)),
        (1510, 1000, (112, 80)),
        (500, 500, (96, 96)),
        (70, 500, (32, 64)),
        (48, 48, (48, 48)),
        (20, 20, (48, 48)),
    ],
)
def test_photographs_go_to_the_nearest_ratio_and_the_largest_size_they_fill(height, width, frame):
    sizes = FrameSizes(sizes_px=(96, 48), ratios=("1:1", "3:2", "2:3"), multiple_px=16)
    assert sizes.frame_of(height, width) == frame


@given(LENGTHS, LENGTHS)
def test_every_photograph_has_a_frame_from_the_finite_list(height, width):
    sizes = FrameSizes(sizes_px=(64, 128), ratios=ALL_RATIOS, multiple_px=8)
    assert sizes.frame_of(height, width) in sizes.frames()


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"sizes_px": ()}, "sizes_px and ratios are empty"),
        ({"sizes_px": (8,)}, "size_px is 8; allowed: 16 to 4096"),
        ({"ratios": ("0:1",)}, "ratio is '0:1'; allowed: width to height"),
        ({"ratios": ("3/2",)}, "ratio is '3/2'; allowed: width to height"),
        ({"multiple_px": 0}, "multiple_px is 0; allowed: 1 to 256"),
        ({"sizes_px": (16,), "ratios": ("99:1",), "multiple_px": 8}, "allowed: sides of at least"),
    ],
)
def test_what_makes_no_frames_is_refused(fields, named):
    with pytest.raises(InvalidInput, match=named):
        FrameSizes(**fields)
