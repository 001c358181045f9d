"""Tiny folders in the layout of each set, with pictures whose values are known."""

import json
import os
from pathlib import Path

import cv2
import jax.numpy as jnp
import numpy as np
import OpenEXR
import pytest
import skimage.data

from bokeh_jax.cli import main
from bokeh_jax.errors import InvalidInput
from bokeh_jax.evaluation.questions import Question
from bokeh_jax.evaluation.real_images import read_disparity, sharpest_point
from bokeh_jax.evaluation.real_layouts import REAL_SETS
from bokeh_jax.evaluation.real_sets import find_questions, read_questions

RNG = np.random.default_rng(0)


def _write(path: Path, values: np.ndarray) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    swapped = values if values.ndim == 2 else values[..., ::-1]
    assert cv2.imwrite(str(path), swapped)
    return values


def _noise(dtype=np.uint8, shape=(24, 32, 3)) -> np.ndarray:
    return RNG.integers(0, np.iinfo(dtype).max, shape, dtype)


def _exr(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = "RGB" if values.ndim == 3 else "V"
    planes = np.moveaxis(values, -1, 0) if values.ndim == 3 else values[None]
    channels = {n: np.ascontiguousarray(p, np.float32) for n, p in zip(names, planes, strict=True)}
    OpenEXR.File({}, channels).write(str(path))


def _load(kind: str, folder: Path, split: str | None = None, **options) -> list[Question]:
    return list(read_questions(find_questions(REAL_SETS, kind, folder, split), **options))


def _lens(lens) -> tuple[float, float]:
    return float(lens.focus_disparity), float(lens.blur_px)


@pytest.mark.parametrize(("kind", "inside"), [("dpdd", "test_c"), ("realdof", ".")])
def test_dpdd_and_realdof(kind, inside, tmp_path):
    source = _write(tmp_path / inside / "source" / "1P0A1670.png", _noise(np.uint16))
    # Its pair has another name: files are paired by their order.
    target = _write(tmp_path / inside / "target" / "1P0A1671.png", _noise(np.uint16))
    (question,) = _load(kind, tmp_path)
    np.testing.assert_array_equal(question.image, source.astype(np.float32) / 65535)
    np.testing.assert_array_equal(question.truth, target.astype(np.float32) / 65535)
    assert (question.task, question.subset, question.blur_fraction) == ("deblur", kind, 0.0)
    assert question.reference is question.disparity is question.told_target is None
    assert question.focus_point == (0.5, 0.5)
    _write(tmp_path / inside / "target" / "1P0A1680.png", _noise(np.uint16))
    with pytest.raises(InvalidInput, match=r"1 files in source and 2 in target; allowed for"):
        _load(kind, tmp_path)


@pytest.mark.parametrize("name", ["Training", "train", "."])
def test_ebb(name, tmp_path):
    for number in (7, 4399, 4400, 4693, 4694):
        sharp = _noise()
        sharp[:, 10:] = 128
        _write(tmp_path / name / "original" / f"{number}.jpg", sharp)
        _write(tmp_path / name / "bokeh" / f"{number}.jpg", sharp)
    held_out = _load("ebb", tmp_path)
    assert [question.scene for question in held_out] == ["4400", "4693"]
    assert [q.scene for q in _load("ebb", tmp_path, "train")] == ["7", "4399", "4694"]
    assert len(_load("ebb", tmp_path, "all")) == 5
    question = held_out[0]
    assert question.task == "add_bokeh"
    assert question.target is question.blur_fraction is None
    assert question.reference is not None
    assert _lens(question.reference) == (0.0, 0.0)
    # Focused, as far as one can see, where there is detail: at the left.
    assert question.point_is_measured
    assert question.focus_point is not None
    assert question.focus_point[0] < 10 / 32
    (tmp_path / name / "bokeh" / "4400.jpg").unlink()
    with pytest.raises(InvalidInput, match=r"bokeh lacks 4400\.\*; allowed: a file for each in "):
        _load("ebb", tmp_path)


def test_realbokeh(tmp_path):
    inside = tmp_path / "test"
    _write(inside / "in" / "12_f22.JPG", _noise())
    for aperture in ("2.0", "10"):
        _write(inside / "gt" / "12" / f"12_f{aperture}.JPG", _noise())
    said = {
        "id": 12,
        "source_image": "in/12_f22.JPG",
        "source_av": 22.0,
        "target_images": ["gt/12/12_f2.0.JPG", "gt/12/12_f10.JPG"],
        "target_avs": [2.0, 10.0],
    }
    (inside / "metadata").mkdir()
    (inside / "metadata" / "12.json").write_text(json.dumps(said))
    questions = _load("realbokeh", tmp_path)
    assert [q.name for q in questions] == ["realbokeh/12_f2.0", "realbokeh/12_f10"]
    assert {q.scene for q in questions} == {"12"}
    assert all(q.all_in_focus is not None and q.task == "add_bokeh" for q in questions)
    (inside / "gt" / "12" / "12_f10.JPG").unlink()
    with pytest.raises(InvalidInput, match=r"12_f10.JPG not found; allowed: all that .*12.json"):
        _load("realbokeh", tmp_path)
    (inside / "metadata" / "12.json").write_text("{}")
    with pytest.raises(InvalidInput, match=r"12.json is damaged; allowed: JSON with source_image"):
        _load("realbokeh", tmp_path)


@pytest.fixture
def blb(tmp_path):
    """One scene: 15 columns at 2 m, 17 columns at 4 m."""
    scene, depth = tmp_path / "277", np.full((24, 32), 4.0, np.float32)
    depth[:, :15] = 2.0
    _exr(scene / "depth.exr", depth)
    _exr(scene / "image.exr", np.full((24, 32, 3), 0.5))
    for level in range(2):
        for plane in range(2):
            light = np.full((24, 32, 3), 0.1 * (1 + level + 2 * plane))
            light[0, 0] = 7.0
            _exr(scene / f"bokeh_{level:02d}_{plane:02d}.exr", light)
    said = {"blur_parameters": [8.0, 16.0], "focus_distances": [4.0, 2.0]}
    (scene / "info.json").write_text(json.dumps(said))
    return tmp_path


def test_blb(blb):
    questions = _load("blb", blb)
    assert len(questions) == 3 * 2 * 2
    by_name = {question.name: question for question in questions}
    added = by_name["blb/277/add_bokeh/01_00"]
    # Disparity 1/4 to 1/2 becomes 0 to 1: K is a quarter, and radii stay.
    assert added.disparity is not None
    assert set(np.unique(added.disparity)) == {0.0, 1.0}
    assert added.target is not None
    assert _lens(added.target) == pytest.approx((0.0, 4.0))
    radius = np.abs(added.target.signed_radius_px(jnp.asarray(added.disparity)))
    np.testing.assert_allclose(radius[:, :15], 16 * (1 / 2 - 1 / 4), rtol=1e-6)
    np.testing.assert_allclose(radius[:, 15:], 0.0)
    assert added.focus_point is not None
    assert added.focus_point[0] > 0.5
    assert not added.point_is_measured
    # Linear light, clipped at white, encoded.
    assert added.truth[0, 0, 0] == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_allclose(added.truth[5, 5], 1.055 * 0.2 ** (1 / 2.4) - 0.055, rtol=1e-5)
    refocused = by_name["blb/277/refocus/00_01"]
    assert refocused.reference is not None
    assert refocused.target is not None
    assert _lens(refocused.reference) == pytest.approx((0.0, 2.0))
    assert _lens(refocused.target) == pytest.approx((1.0, 2.0))
    assert refocused.reference_point is not None
    assert refocused.reference_point[0] > 0.5
    sharp = by_name["blb/277/deblur/00_01"]
    np.testing.assert_array_equal(sharp.truth, added.image)
    assert sharp.blur_fraction == 0.0
    small = next(q for q in _load("blb", blb, max_side_px=16) if q.name == added.name)
    assert small.frame == (12, 16)
    assert small.target is not None
    assert _lens(small.target) == pytest.approx((0.0, 2.0))
    assert small.disparity is not None
    assert set(np.unique(small.disparity)) == {0.0, 1.0}


def test_blb_that_is_not_whole(blb):
    (blb / "277" / "bokeh_01_01.exr").unlink()
    with pytest.raises(InvalidInput, match=r"bokeh_01_01.exr not found; allowed: all that"):
        _load("blb", blb)
    (blb / "277" / "info.json").unlink()
    with pytest.raises(InvalidInput, match=r"has no scenes; allowed for blb: SCENE/"):
        _load("blb", blb)


COLUMNS = (slice(0, 50), slice(55, 105), slice(110, 160))


def _focused_on(column: slice, zoom: float) -> np.ndarray:
    """A photograph that is sharp in some columns, by a lens of some magnification."""
    sharp = cv2.resize(skimage.data.coffee(), (160, 120), interpolation=cv2.INTER_AREA)
    picture = cv2.GaussianBlur(sharp, (0, 0), 1.2)
    picture[:, column] = sharp[:, column]
    around = cv2.getRotationMatrix2D((79.5, 59.5), 0.0, zoom)
    return cv2.warpAffine(picture, around, (160, 120), borderMode=cv2.BORDER_REPLICATE)


def test_focal_stacks(tmp_path):
    slices = [
        _write(tmp_path / "ring" / f"step{number}.png", _focused_on(column, 1.0))
        for number, column in zip((9, 10, 11), COLUMNS, strict=True)
    ]
    sharp = _write(tmp_path / "ring" / "all_in_focus.png", _focused_on(slice(None), 1.0))
    (tmp_path / "ring" / "LICENSE").touch()
    (tmp_path / "empty").mkdir()
    questions = _load("stack", tmp_path)
    assert len(questions) == 6
    question = questions[0]
    assert question.name == "stack/ring/step9-step10"
    # Nothing moves, so nothing is sampled anew.
    np.testing.assert_array_equal(question.image, slices[0].astype(np.float32) / 255)
    np.testing.assert_array_equal(question.truth, slices[1].astype(np.float32) / 255)
    np.testing.assert_array_equal(question.all_in_focus, sharp.astype(np.float32) / 255)
    assert question.target is question.reference is question.disparity is None
    for question in questions:
        column = COLUMNS[int(question.name.rpartition("step")[2]) - 9]
        assert question.point_is_measured
        assert question.focus_point is not None
        assert column.start <= question.focus_point[0] * 160 < column.stop
    # The folder may be a stack itself.
    assert len(_load("stack", tmp_path / "ring")) == 6
    with pytest.raises(InvalidInput, match=r"has no stack; allowed: two or more of NAME1.jpg"):
        _load("stack", tmp_path / "empty")


def test_slices_are_laid_on_one_another(tmp_path):
    """Slices that grow by 2 % each come to the frame of the largest."""
    for number, column in enumerate(COLUMNS):
        _write(tmp_path / f"{number}.png", _focused_on(column, 1.0 + 0.02 * number))

    def light(picture: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 4.0)[8:-8, 8:-8]

    for question in _load("stack", tmp_path):
        names = question.name.rpartition("/")[2].split("-")
        for name, picture in zip(names, (question.image, question.truth), strict=True):
            column = COLUMNS[int(name)]
            wanted = light(_focused_on(column, 1.04))
            # As close as half a per cent of magnification, 0.4 px in the corners.
            close = np.abs(light(_focused_on(column, 1.035)) - wanted).mean()
            assert np.abs(light(255 * picture) - wanted).mean() < close
    _write(tmp_path / "2.png", _noise(shape=(120, 160, 3)))
    with pytest.raises(InvalidInput, match=r"slices 1.png and 2.png cannot be laid on one another"):
        _load("stack", tmp_path)


def test_triples(tmp_path):
    sharp = _write(tmp_path / "all_in_focus" / "a.png", _noise())
    blurred = _write(tmp_path / "defocused" / "a.png", _noise())
    disparity = _write(tmp_path / "disparity" / "a.png", _noise(np.uint16, (24, 32)))
    (tmp_path / "cameras.jsonl").write_text(
        json.dumps({"name": "a", "focus_disparity": 0.25, "blur_px": 8, "point": [0.1, 0.9]})
    )
    added, sharpened = _load("triples", tmp_path)
    assert (added.task, sharpened.task) == ("add_bokeh", "deblur")
    np.testing.assert_array_equal(added.truth, blurred.astype(np.float32) / 255)
    np.testing.assert_array_equal(sharpened.truth, sharp.astype(np.float32) / 255)
    np.testing.assert_array_equal(added.disparity, disparity.astype(np.float32) / 65535)
    assert added.target is not None
    assert _lens(added.target) == (0.25, 8.0)
    assert added.focus_point == (0.1, 0.9)
    assert sharpened.blur_fraction == 0.0
    (tmp_path / "cameras.jsonl").write_text('{"name": "a", "K": 3}')
    with pytest.raises(InvalidInput, match=r"line 1 is .* allowed: an object of name and any of"):
        _load("triples", tmp_path)
    (tmp_path / "cameras.jsonl").write_text('{"name": "a", "point": [0.5]}')
    with pytest.raises(InvalidInput, match=r"point in .* line 1 is \[0.5\]; allowed: 2 finite"):
        _load("triples", tmp_path)
    (tmp_path / "cameras.jsonl").unlink()
    unknown, _ = _load("triples", tmp_path)
    assert unknown.target is None
    assert unknown.point_is_measured
    _write(tmp_path / "disparity" / "a.png", _noise(np.uint16, (24, 30)))
    with pytest.raises(InvalidInput, match=r"a.png has 30x24 px; allowed: 32x24 px, as"):
        _load("triples", tmp_path)


@pytest.mark.parametrize("kind", REAL_SETS)
def test_what_is_missing_is_said(kind, tmp_path, capsys):
    assert main(["data", "questions", str(tmp_path), f"--kind={kind}"]) == 2
    error = capsys.readouterr().err
    assert str(tmp_path) in error
    assert REAL_SETS[kind].pattern in error
    assert error.count("\n") == 1
    with pytest.raises(InvalidInput, match=r"split of .* is 'odd'; allowed: "):
        find_questions(REAL_SETS, kind, tmp_path, "odd")
    with pytest.raises(InvalidInput, match=r"folder .*nowhere not found; allowed for"):
        find_questions(REAL_SETS, kind, tmp_path / "nowhere")


def test_the_command_counts_and_draws(tmp_path, capsys):
    for number, column in enumerate(COLUMNS, start=1):
        _write(tmp_path / "stack" / f"{number}.png", _focused_on(column, 1.0))
    (tmp_path / "sheet.png").touch()
    options = ["--kind=stack", f"--sheet={tmp_path / 'sheet.png'}", "--rows=2", "--max-side=16"]
    assert main(["data", "questions", str(tmp_path / "stack"), *options]) == 0
    assert "1 scenes; refocus 6" in capsys.readouterr().out
    assert cv2.imread(str(tmp_path / "sheet.png")) is not None
    (tmp_path / "stack" / "2.png").write_bytes(b"no picture")
    assert main(["data", "questions", str(tmp_path / "stack"), *options]) == 2
    assert "2.png cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "is_depth", "message"),
    [
        (np.zeros((4, 4), np.float32), True, "values of 0 or less; allowed: above 0"),
        (np.full((4, 4), np.nan, np.float32), False, "not finite; allowed: finite"),
        (np.full((4, 4), 3.0, np.float32), False, "is 3 everywhere; allowed: several values"),
    ],
)
def test_maps_of_no_use(values, is_depth, message, tmp_path):
    np.save(tmp_path / "map.npy", values)
    with pytest.raises(InvalidInput, match=message):
        read_disparity(tmp_path / "map.npy", is_depth=is_depth)


def test_maps_of_any_span_become_relative(tmp_path):
    np.save(tmp_path / "map.npy", np.array([[1.0, 3.0], [2.0, 5.0]], np.float32))
    relative, span = read_disparity(tmp_path / "map.npy", is_depth=False)
    assert span == (1.0, 5.0)
    np.testing.assert_allclose(relative, [[0.0, 0.5], [0.25, 1.0]])
    grey = np.full((8, 8, 3), 128, np.uint8)
    _write(tmp_path / "map.jpg", grey)
    relative, span = read_disparity(tmp_path / "map.jpg", is_depth=False)
    assert span == (0.0, 1.0)
    np.testing.assert_allclose(relative, 128 / 255, rtol=1e-6)


def test_the_sharpest_point_lies_on_the_detail():
    picture = np.full((40, 60, 3), 0.5, np.float32)
    assert sharpest_point(picture) == pytest.approx((3.5 / 60, 3.5 / 40), abs=0.01)
    picture[31, 12] = 1.0
    assert sharpest_point(picture) == pytest.approx((12.5 / 60, 31.5 / 40))
    other = picture.copy()
    picture[8, 50] = 0.8
    assert sharpest_point(picture, [other]) == pytest.approx((50.5 / 60, 8.5 / 40))


# Focal stacks of others, where they are at hand; none are needed.
ROOT = Path(__file__).parents[2]
REAL_DATA = Path(os.environ.get("BOKEH_JAX_REAL_DATA", ROOT.parent / "shared" / "data"))


@pytest.mark.parametrize(("name", "count"), [("focus_stack_pcb", 7), ("focusstack_aaddrick", 6)])
def test_real_stacks(name, count):
    folder = REAL_DATA / name
    if not folder.is_dir():
        pytest.skip(f"no real photographs in {REAL_DATA}")
    found = find_questions(REAL_SETS, "stack", folder)
    assert len(found) == count * (count - 1)
    question = next(read_questions(found[:1], max_side_px=128))
    assert max(question.frame) == 128
    assert question.point_is_measured
