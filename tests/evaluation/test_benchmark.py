import json
import re
import shutil
import signal
import subprocess
import sys
import time

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bokeh_jax.cli import main
from bokeh_jax.errors import InvalidInput
from bokeh_jax.evaluation.benchmark import (
    SUBSETS,
    load_benchmark,
    open_benchmark,
    verify_benchmark,
)
from bokeh_jax.evaluation.benchmark_build import build_benchmark, scene_rows
from bokeh_jax.evaluation.benchmark_scenes import (
    SPLIT,
    STREAM,
    BenchmarkSettings,
    PhotographedScene,
)
from bokeh_jax.evaluation.focus_points import FocusPlane
from bokeh_jax.evaluation.metrics import psnr_db
from bokeh_jax.evaluation.questions import TASKS, Question
from bokeh_jax.optics import Lens, linear_to_srgb, render_defocus, render_layers, srgb_to_linear
from data_pipeline.layered import STYLES
from data_pipeline.layered.composition import compose
from data_pipeline.layered.photographer import STREAM as PHOTOGRAPHER_STREAM
from data_pipeline.layered.textures import Textures, load_textures
from data_pipeline.source import SPLITS, SkippedScene, check_split

SETTINGS = BenchmarkSettings(scenes=3, sizes_px=(32,), ratios=("1:1", "3:2"), seed=7)


class Forbidden(dict):
    """Photographs that may not be looked at."""

    def __getitem__(self, name):
        raise AssertionError(f"{name}, which training uses, was looked at")


@pytest.fixture(scope="module")
def textures():
    loaded = load_textures()
    forbidden = Forbidden(loaded.train)
    return Textures(forbidden, loaded.held_out, loaded.digest, loaded.words)


@pytest.fixture(scope="module")
def built(tmp_path_factory, textures):
    """Built with textures whose training half cannot be read."""
    path = tmp_path_factory.mktemp("benchmark") / "bench"
    done = []
    benchmark, was_there = build_benchmark(SETTINGS, path, textures, done.append)
    assert not was_there
    assert done == [1, 2, 3]
    assert benchmark.path == path
    return path


@pytest.fixture
def copied(built, tmp_path):
    return shutil.copytree(built, tmp_path / "copy")


@pytest.fixture(scope="module")
def questions(built) -> list[Question]:
    return list(load_benchmark(built))


def test_nothing_of_it_is_in_training(built, textures):
    trained = load_textures().train
    held_out = {name: photograph.tobytes() for name, photograph in textures.held_out.items()}
    assert not {photograph.tobytes() for photograph in trained.values()} & set(held_out.values())
    used = {name for scene in open_benchmark(built).scenes for name in scene["textures"] if name}
    assert used <= set(held_out)
    # A scene is a function of (seed, split and stream, index): no source of training has this one.
    taken = {check_split(split) + stream for split in SPLITS for stream in (0, PHOTOGRAPHER_STREAM)}
    assert check_split(SPLIT) + STREAM not in taken


def test_every_plane_level_task_and_subset_is_asked(built):
    benchmark = open_benchmark(built)
    assert benchmark.counts == {subset: dict.fromkeys(TASKS, 27) for subset in SUBSETS}
    gaps = []
    for row in benchmark.rows:
        reference, target = row["reference"], row["target"]
        assert (reference["blur_fraction"] == 0) == (row["task"] == "add_bokeh")
        assert (target["blur_fraction"] == 0) == (row["task"] == "deblur")
        # Nothing is asked for that is there already, and deblurring does not say what is sharp.
        gaps.append(abs(reference["focus_disparity"] - target["focus_disparity"]))
    assert min(gaps) >= SETTINGS.least_gap
    assert len({row["name"] for row in benchmark.rows}) == len(benchmark.rows)
    levels = {row["target"]["blur_fraction"] for row in benchmark.rows} - {0.0}
    assert levels == set(SETTINGS.blur_fractions)


def test_the_core_turns_through_planes_and_levels(built):
    core = [row for row in open_benchmark(built).rows if row["core"] and row["subset"] == "clean"]
    assert len(core) == 27
    asked = [(row["scene"], row["task"], row["name"].split("/")[2]) for row in core]
    for scene, rotation in (("0000", 0), ("0001", 1), ("0002", 1)):
        for task in TASKS:
            found = {shot for s, t, shot in asked if (s, t) == (scene, task)}
            names = ("near", "middle", "far")
            assert found == {f"{names[(level + rotation) % 3]}_{level}" for level in range(3)}


def test_frames_planes_and_levels_are_not_tied_to_each_other():
    """Of all scenes of a frame, and of the first nine alike, each turn has its share."""
    settings = BenchmarkSettings()
    picture, disparity = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.float32)
    turns = []
    for number in range(settings.scenes):
        scene = PhotographedScene(
            number=number,
            index=number,
            planes=tuple(FocusPlane((0.5, 0.5), float(value)) for value in (0.9, 0.5, 0.1)),
            all_in_focus=picture,
            photographs=np.zeros((3, 3, 8, 8, 3), np.uint8),
            disparity=disparity,
            damaged=disparity,
            made_of={},
        )
        row = next(r for r in scene_rows(scene, settings) if r["task"] == "refocus" and r["core"])
        pair = [row[name]["blur_fraction"] for name in ("reference", "target")]
        turns.append((row["name"].split("/")[2], *pair))
    assert len(set(turns[:9])) == len(set(turns)) == 9
    for frame in range(16):
        assert len(set(turns[frame::16])) == 9


def test_truth_is_taken_of_all_layers(questions, textures):
    """Composed and photographed here again, by hand, with the layers that the scene is made of."""
    question = next(
        q for q in questions if q.task == "add_bokeh" and q.name.endswith("near_2/clean")
    )
    frame, radius_px = question.frame, SETTINGS.max_radius_px(question.frame[1])
    margin_px = int(radius_px) + 1
    composition = compose(
        (SETTINGS.seed, check_split(SPLIT) + STREAM, 0),
        frame,
        textures.held_out,
        max_layers=SETTINGS.max_layers,
        style=STYLES[SETTINGS.style],
        margin_px=margin_px,
    )
    light = np.asarray(srgb_to_linear(jnp.asarray(composition.layers[..., :3] / np.float32(255))))
    assert composition.gains.max() > 1  # lights
    light = light * composition.gains[:, None, None, None]
    alpha = composition.layers[..., 3:] / np.float32(255)
    a, b, c = composition.planes.T
    planes = np.stack([a, b, c + (a + b) * np.float32(margin_px)], axis=-1)
    shoot = jax.jit(render_layers, static_argnames=("max_radius_px", "margin_px"))
    layers = jnp.asarray(np.concatenate([light, alpha], axis=-1))
    truth = shoot(
        layers, jnp.asarray(planes), question.target, max_radius_px=radius_px, margin_px=margin_px
    )
    np.testing.assert_allclose(question.truth, _encoded(truth), atol=0.75 / 255)
    inner = slice(margin_px, -margin_px)
    seen = np.zeros_like(light[-1])
    for color, opacity in zip(light[::-1], alpha[::-1], strict=True):
        seen = opacity * color + (1 - opacity) * seen
    np.testing.assert_allclose(question.image, _encoded(seen[inner, inner]), atol=0.75 / 255)


def _encoded(light) -> np.ndarray:
    return np.asarray(linear_to_srgb(jnp.clip(jnp.asarray(light, jnp.float32), 0.0, 1.0)))


def test_lens_disparity_and_truth_belong_together(built):
    """The lens blur of what is given comes closer than other lenses or doing nothing."""
    # Without lights, which are clipped in what is given.
    dark = [
        s["scene"]
        for s in open_benchmark(built).scenes
        if not any("light" in part for part in s["silhouettes"])
    ]
    blur = jax.jit(render_defocus, static_argnames=("max_radius_px",))

    def answer(question: Question, lens: Lens) -> float:
        light = srgb_to_linear(jnp.asarray(question.image))
        blurred = blur(light, jnp.asarray(question.true_disparity), lens, max_radius_px=4.0)
        return float(psnr_db(_encoded(blurred)[None], question.truth[None])[0])

    names = [f"{dark[-1]}/add_bokeh/{plane}_2/clean" for plane in ("near", "middle", "far")]
    asked = list(load_benchmark(built, names=names))
    assert len(asked) == 3
    ahead = []
    for question in asked:
        right = question.target
        assert right is not None
        assert question.reference is not None
        own = answer(question, right)
        ahead.append(own - float(psnr_db(question.image[None], question.truth[None])[0]))
        for other in (
            Lens(focus_disparity=right.focus_disparity, blur_px=0.5 * right.blur_px),
            Lens(focus_disparity=question.reference.focus_disparity, blur_px=right.blur_px),
        ):
            ahead.append(own - answer(question, other))
    assert min(ahead) > 0
    assert np.mean(ahead) > 2


def test_what_is_told_and_what_is_true(built):
    for question in load_benchmark(built, core=True):
        assert question.true_disparity is not None
        assert question.image.dtype == question.truth.dtype == np.float32
        assert question.target is not None
        assert question.focus_point is not None
        width_px = question.frame[1]
        assert float(question.target.blur_px) == pytest.approx(question.blur_fraction * width_px)
        row, column = (
            int(part * side)
            for part, side in zip(question.focus_point[::-1], question.frame, strict=True)
        )
        assert question.true_disparity[row, column] == pytest.approx(
            float(question.target.focus_disparity), abs=1e-4
        )
        if question.subset == "no_depth":
            assert question.disparity is question.told_target is question.told_reference is None
            continue
        told, reference = question.told_target, question.told_reference
        assert told is not None
        assert reference is not None
        assert question.disparity is not None
        assert float(told.focus_disparity) == question.disparity[row, column]
        assert float(told.blur_px) == float(question.target.blur_px)
        same = np.array_equal(question.disparity, question.true_disparity)
        assert same == (question.subset == "clean")


def test_the_same_bytes_again(built, textures, tmp_path):
    build_benchmark(SETTINGS, tmp_path / "again", textures)
    files = sorted(p.relative_to(built) for p in built.rglob("*") if p.is_file())
    assert len(files) == 3 + 3 * 12
    for file in files:
        assert (tmp_path / "again" / file).read_bytes() == (built / file).read_bytes()
    sums = dict(
        reversed(line.split("  ")) for line in (built / "SHA256SUMS").read_text().split("\n")[:-1]
    )
    assert set(sums) == {file.as_posix() for file in files} - {"benchmark.json", "SHA256SUMS"}


def test_a_stopped_build_leaves_nothing(textures, tmp_path):
    def stop(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_benchmark(SETTINGS, tmp_path / "bench", textures, stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
@pytest.mark.parametrize(
    ("signal_number", "code"),
    [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_a_signal_leaves_no_benchmark(signal_number, code, tmp_path):
    """A real process, stopped when some scenes are written."""
    command = [
        sys.executable,
        "-m",
        "bokeh_jax.cli",
        "data",
        "benchmark",
        f"--out={tmp_path / 'b'}",
    ]
    process = subprocess.Popen([*command, "--scenes=500", "--size=32", "--ratios=1:1"])
    try:
        ends = time.monotonic() + 120
        while not list(tmp_path.glob(".b.*.building/scenes/0002/*")) and time.monotonic() < ends:
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal_number)
        assert process.wait(timeout=60) == code
    finally:
        process.kill()
    assert not (tmp_path / "b").exists()
    left = [path.name for path in tmp_path.iterdir()]
    assert left == ([] if signal_number == signal.SIGINT else [f".b.{process.pid}.building"])


def test_what_is_there_is_kept_or_refused(copied, textures, tmp_path):
    before = {p: p.read_bytes() for p in copied.rglob("*") if p.is_file()}
    benchmark, was_there = build_benchmark(SETTINGS, copied, textures)
    assert was_there
    assert len(benchmark.scenes) == 3
    other = BenchmarkSettings(scenes=2, sizes_px=(32,))
    with pytest.raises(InvalidInput, match=r"other settings; allowed: a new folder"):
        build_benchmark(other, copied, textures)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(InvalidInput, match=r"full holds other things; allowed: a new folder"):
        build_benchmark(SETTINGS, tmp_path / "full", textures)
    with pytest.raises(InvalidInput, match=r"mine.txt holds other things"):
        build_benchmark(SETTINGS, tmp_path / "full" / "mine.txt", textures)
    assert {p: p.read_bytes() for p in copied.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("scenes/0001/far_2.png", lambda data: data[:-20] + bytes([data[-20] ^ 1]) + data[-19:]),
        ("scenes/0001/far_2.png", None),
        ("questions.jsonl", lambda data: data.replace(b"0.12", b"0.11", 1)),
        ("SHA256SUMS", lambda data: data[:-3] + b"\n"),
        ("benchmark.json", lambda data: data.replace(b'"seed": 7', b'"seed": 5')),
        ("benchmark.json", lambda data: data[:100]),
    ],
)
def test_damage_is_named(copied, name, change):
    file = copied / name
    if change is None:
        file.unlink()
    else:
        file.write_bytes(change(file.read_bytes()))
    for use in (verify_benchmark, lambda path: list(load_benchmark(path))):
        with pytest.raises(InvalidInput, match=re.escape(str(file))):
            use(copied)


def test_strange_files_and_folders_are_named(copied, tmp_path):
    (copied / "scenes" / "notes.txt").touch()
    with pytest.raises(InvalidInput, match=r"notes.txt is not in SHA256SUMS"):
        verify_benchmark(copied)
    with pytest.raises(InvalidInput, match=r"has no benchmark.json; allowed"):
        load_benchmark(tmp_path)
    contents = json.loads((copied / "benchmark.json").read_text())
    (copied / "benchmark.json").write_text(json.dumps(contents | {"version": 7}))
    with pytest.raises(InvalidInput, match=r"has version 7; allowed: 1"):
        open_benchmark(copied)


def test_parts_of_it(built, questions):
    some = load_benchmark(built, tasks=["deblur"], subsets=["clean"], core=True, num_scenes=2)
    names = [question.name for question in some]
    assert len(names) == 2 * 3
    assert all("/deblur/" in name and name.endswith("/clean") for name in names)
    assert {name[:4] for name in names} == {"0000", "0001"}
    assert set(names) <= {question.name for question in questions}
    with pytest.raises(InvalidInput, match=r"task is 'sharpen'; allowed: refocus"):
        load_benchmark(built, tasks=["sharpen"])
    with pytest.raises(InvalidInput, match=r"num_scenes is 0; allowed: 1 or more"):
        load_benchmark(built, num_scenes=0)
    with pytest.raises(InvalidInput, match=r"subset is 'depth'; allowed: clean"):
        load_benchmark(built, subsets=["depth"])


def test_pictures_in_the_files(built):
    folder = built / "scenes" / "0002"
    disparity = cv2.imread(str(folder / "disparity.png"), cv2.IMREAD_UNCHANGED)
    photograph = cv2.imread(str(folder / "near_1.png"), cv2.IMREAD_UNCHANGED)
    assert disparity.dtype == np.uint16
    assert photograph.dtype == np.uint8
    assert photograph.shape == (*disparity.shape, 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scenes": 0}, "scenes is 0"),
        ({"blur_fractions": ()}, "blur_fractions is"),
        ({"blur_fractions": (0.06, 0.03)}, "rising"),
        ({"blur_fractions": (0.0, 0.03)}, "above 0"),
        ({"blur_fractions": (0.3,)}, "up to 0.25"),
        ({"style": "odd"}, "style is 'odd'; allowed: plain, rich"),
        ({"sizes_px": (8,)}, "size_px is 8"),
    ],
)
def test_bad_settings(values, message, textures, tmp_path):
    with pytest.raises(InvalidInput, match=re.escape(message)):
        build_benchmark(BenchmarkSettings(**values), tmp_path / "bench", textures)
    assert list(tmp_path.iterdir()) == []


def test_scenes_without_three_planes_are_refused(textures, tmp_path, monkeypatch):
    monkeypatch.setattr("bokeh_jax.evaluation.benchmark_scenes._MOST_CANDIDATES", 3)
    flat = BenchmarkSettings(least_gap=0.49, max_layers=2, sizes_px=(16,))
    with pytest.raises(InvalidInput, match=r"least_gap is 0.49; allowed: less, as none of 3"):
        build_benchmark(flat, tmp_path / "bench", textures)
    assert list(tmp_path.iterdir()) == []


class Unreadable(dict):
    def __getitem__(self, name):
        raise SkippedScene(name, "cannot be read: truncated", damaged=True)


def test_a_texture_that_cannot_be_read_is_named(textures, tmp_path):
    broken = Textures(textures.train, Unreadable({"roof.jpg": 0, "tree.jpg": 0}), "digest")
    with pytest.raises(InvalidInput, match=r"texture (roof|tree).jpg: cannot be read: truncated"):
        build_benchmark(SETTINGS, tmp_path / "bench", broken)
    assert list(tmp_path.iterdir()) == []


def test_commands(built, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    assert main(["data", "questions", str(built), f"--sheet={sheet}", "--rows=4"]) == 0
    said = capsys.readouterr().out
    assert "whole" in said
    assert "3 scenes; clean: refocus 27, add_bokeh 27, deblur 27" in said
    assert cv2.imread(str(sheet)).shape[1] == 5 * (256 + 6)
    options = ["--scenes=3", "--size=32", "--ratios=1:1,3:2", "--seed=7"]
    assert main(["data", "benchmark", f"--out={built}", *options]) == 0
    assert capsys.readouterr().out.startswith("kept")
    for wrong, message in (
        (["benchmark", f"--out={tmp_path / 'b'}", "--blur=wide"], "--blur is 'wide'"),
        (["benchmark", f"--out={tmp_path / 'b'}", "--ratios=wide"], "ratio is 'wide'"),
        (["questions", str(tmp_path)], "has no benchmark.json"),
        (["questions", str(built), "--rows=0"], "--rows is 0"),
        (["questions", str(built), "--max-side=64"], "--max-side is 64; allowed only with --kind"),
        (["questions", str(built), "--kind=film"], "--kind is 'film'; allowed: benchmark, dpdd"),
        (["questions", str(built), "--sheet=sheet.bmp"], "allowed endings"),
    ):
        assert main(["data", *wrong]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "b").exists()
