"""A checkpoint's answers to a small benchmark: rows, sweeps, tables, and an interrupted run."""

import contextlib
import json
import math
import mmap
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from random_runs import perturbed

from bokeh_jax.cli import main
from bokeh_jax.errors import InvalidInput
from bokeh_jax.evaluation.answers import answer_question, taken_with
from bokeh_jax.evaluation.benchmark import load_benchmark
from bokeh_jax.evaluation.benchmark_build import build_benchmark
from bokeh_jax.evaluation.benchmark_scenes import BenchmarkSettings
from bokeh_jax.evaluation.methods import METHODS, UNTRAINED
from bokeh_jax.evaluation.metrics import psnr_db
from bokeh_jax.evaluation.quality import SWEEP_METRICS, Row, score_questions, summarise
from bokeh_jax.evaluation.quality_files import (
    append_scene,
    check_settings,
    finished_scenes,
    read_rows,
    rows_file,
)
from bokeh_jax.inference import Refocuser, TakenWith
from bokeh_jax.inference.request import lens_blur
from bokeh_jax.models import init_params
from data_pipeline.layered.textures import load_textures

SETTINGS = BenchmarkSettings(
    scenes=2, sizes_px=(32,), ratios=("1:1",), blur_fractions=(0.05, 0.08, 0.12), seed=6
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("quality") / "bench"
    build_benchmark(SETTINGS, path, load_textures())
    return path


@pytest.fixture(scope="module")
def questions(folder):
    """Of the first scene."""
    return list(load_benchmark(folder, num_scenes=1))


@pytest.fixture(scope="module")
def network(tiny):
    params = jax.jit(lambda: init_params(tiny.model, jax.random.key(0), 16, 16))()
    return Refocuser(tiny, jax.device_put(perturbed(params, 1, scale=0.05)), step=0)


def one(questions, task, subset, level=2):
    return next(
        question
        for question in questions
        if (question.task, question.subset) == (task, subset)
        and question.blur_fraction in (0.0, pytest.approx(SETTINGS.blur_fractions[level]))
    )


def test_every_method_answers_what_it_is_told(questions, network):
    question = one(questions, "refocus", "clean")
    answers = answer_question(question, network)
    assert list(answers) == sorted(answers, key=METHODS.index) or set(answers) == set(METHODS)
    taken = taken_with(question)
    assert taken is not None
    assert taken.blur > 0
    asked = {"focus": question.focus_point, "blur": question.blur_fraction}
    told = asked | {"disparity": question.disparity}
    np.testing.assert_array_equal(answers["unchanged"], question.image)
    np.testing.assert_array_equal(answers["model"], network(question.image, **told).image)
    np.testing.assert_array_equal(
        answers["model_known_camera"], network(question.image, **told, taken_with=taken).image
    )
    sharp = network(question.image, **(told | {"blur": 0.0})).image
    np.testing.assert_array_equal(
        answers["two_stage"],
        lens_blur(sharp, question.disparity, asked["focus"], asked["blur"]),
    )
    # What adds only missing blur keeps more of what was blurred already.
    scores = {name: psnr_db(answer, question.truth) for name, answer in answers.items()}
    assert scores["lens_blur_known_camera"] > scores["lens_blur"]
    assert scores["deconvolved_known_camera"] != scores["lens_blur_known_camera"]


def test_a_photograph_sharp_everywhere_has_a_known_camera(questions, network):
    question = one(questions, "add_bokeh", "clean")
    assert taken_with(question) == TakenWith()
    answers = answer_question(question, None)
    assert set(answers) == set(UNTRAINED)
    for name in ("lens_blur_known_camera", "deconvolved_known_camera"):
        np.testing.assert_array_equal(answers[name], answers["lens_blur"])
    assert psnr_db(answers["lens_blur"], question.truth) > 3 + psnr_db(
        question.image, question.truth
    )


def test_without_disparity_only_the_network_answers(questions, network):
    found = answer_question(one(questions, "refocus", "no_depth"), network)
    assert set(found) == {"unchanged", "model"}
    sharp = answer_question(one(questions, "add_bokeh", "no_depth"), network)
    assert set(sharp) == {"unchanged", "model", "model_known_camera"}


@pytest.fixture(scope="module")
def rows(questions):
    """Without a network."""
    return list(score_questions(questions, None, perceptual={"clip_i": None}))


def test_each_answer_has_a_row_and_each_sweep(questions, rows):
    answers = [row for row in rows if "sweep" not in row.question]
    clean = [row for row in answers if row.subset == "clean"]
    assert len(clean) == len(UNTRAINED) * sum(q.subset == "clean" for q in questions)
    scores = {(row.question, row.method): row.scores for row in answers}
    question = one(questions, "add_bokeh", "clean")
    assert scores[question.name, "unchanged"]["psnr_db"] == pytest.approx(
        float(psnr_db(question.image, question.truth)), abs=1e-9
    )
    assert scores[question.name, "unchanged"]["unchanged_mae"] == 0.0
    assert all("clip_i" not in row.scores for row in rows)
    sweeps = [row for row in rows if row.subset == "clean" and row.task == "add_bokeh"]
    sweeps = [row for row in sweeps if "sweep" in row.question]
    by_kind = {
        kind: [row for row in sweeps if row.question.endswith(kind)]
        for kind in ("blur sweep", "focus sweep")
    }
    # Three planes, three blurs, four methods.
    assert {kind: len(found) for kind, found in by_kind.items()} == {
        "blur sweep": 12,
        "focus sweep": 12,
    }
    for row in by_kind["blur sweep"]:
        # An input left as it is has no blur to follow.
        follows = row.scores["lvcorr_rank"]
        assert follows == 0.0 if row.method == "unchanged" else follows > 0.4, row
    stacking = {
        method: np.mean(
            [row.scores["stacking_rms"] for row in by_kind["focus sweep"] if row.method == method]
        )
        for method in ("unchanged", "lens_blur")
    }
    assert set(by_kind["focus sweep"][0].scores) < set(SWEEP_METRICS)
    assert 0 < stacking["lens_blur"] < 0.05


def test_scenes_count_once_in_a_mean():
    rows = [
        Row("clean", "refocus", scene, f"{scene}/{index}", "model", {"psnr_db": value})
        for scene, values in {"a": (10.0, 20.0), "b": (30.0,), "c": (21.0,)}.items()
        for index, value in enumerate(values)
    ]
    rows.append(Row("clean", "refocus", "d", "d/0", "model", {"psnr_db": math.nan}))
    mean = summarise(rows)["clean/refocus"]["model"]["psnr_db"]
    assert mean.mean == pytest.approx((15.0 + 30.0 + 21.0) / 3)
    assert mean.count == 3


def test_rows_survive_the_file(rows, tmp_path):
    append_scene(rows_file(tmp_path), "0000", rows)
    found = list(read_rows(tmp_path))
    assert len(found) == len(rows)
    for ours, theirs in zip(rows, found, strict=True):
        assert (ours.question, ours.method) == (theirs.question, theirs.method)
        measured = {name: v for name, v in ours.scores.items() if not math.isnan(v)}
        assert theirs.scores == pytest.approx(measured, rel=1e-5)


def test_a_scene_cut_short_is_answered_again(rows, tmp_path):
    path = rows_file(tmp_path)
    append_scene(path, "0000", rows)
    whole = path.read_text()
    append_scene(path, "0001", rows)
    text = path.read_text()
    for cut in (len(text) - 1, len(text) - 8, len(whole) + 40):
        path.write_text(text[:cut])
        assert finished_scenes(path) == {"0000"}
        assert path.read_text() == whole
    path.write_text(text[:10])
    assert finished_scenes(path) == set()
    assert path.read_text() == ""


def test_another_checkpoint_needs_another_folder(tmp_path):
    check_settings(tmp_path / "q", {"step": 3, "suite": "x"})
    check_settings(tmp_path / "q", {"step": 3, "suite": "x"})
    with pytest.raises(InvalidInput, match=r"scores with step=3; allowed: 4, as asked, or another"):
        check_settings(tmp_path / "q", {"step": 4, "suite": "x"})


@contextlib.contextmanager
def hardly_any_mapping_left(share=0.55):
    """Most of what a process may map is mapped; neighbours with other rights are two mappings."""
    most = int(Path("/proc/sys/vm/max_map_count").read_text())
    with contextlib.ExitStack() as held:
        for i in range(int(share * most)):
            rights = mmap.PROT_READ | (i % 2) * mmap.PROT_WRITE
            held.enter_context(mmap.mmap(-1, 4096, prot=rights))
        yield


def test_the_command_goes_on_where_it_was_interrupted(folder, tmp_path, capsys):
    argv = ["bench", "quality", f"--suite={folder}", "--core", f"--out={tmp_path / 'q'}"]
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert said.count("scored") == 2
    assert "### clean/refocus" in said
    assert "| lens blur, missing blur only |" in said
    assert "no weights" in said
    path = rows_file(tmp_path / "q")
    text, table = path.read_text(), (tmp_path / "q" / "table.md").read_text()
    # Killed in its second scene.
    path.write_text(text[: int(0.7 * len(text))])
    program = jax.jit(lambda x: x + 1)
    program(1.0)
    with hardly_any_mapping_left():
        assert main(argv) == 0
    assert program._cache_size() == 0, "compiled programs are given up before mappings run out"
    said = capsys.readouterr().out
    assert said.count("scored") == 1
    assert path.read_text() == text
    assert (tmp_path / "q" / "table.md").read_text() == table
    means = json.loads((tmp_path / "q" / "summary.json").read_text())["means"]
    rows = [r for r in read_rows(tmp_path / "q") if (r.subset, r.task) == ("clean", "deblur")]
    values = {
        scene: np.mean(
            [r.scores["psnr_db"] for r in rows if (r.scene, r.method) == (scene, "unchanged")]
        )
        for scene in {row.scene for row in rows}
    }
    assert means["clean/deblur"]["unchanged"]["psnr_db"]["mean"] == pytest.approx(
        np.mean(list(values.values())), rel=1e-5
    )
    # Another question for the same folder.
    assert main([*argv, "--scenes=1"]) == 2
    assert "num_scenes=None; allowed: 1" in capsys.readouterr().err


def test_a_damaged_benchmark_is_named(folder, tmp_path, capsys):
    damaged = shutil.copytree(folder, tmp_path / "bench")
    picture = next((damaged / "scenes").rglob("all_in_focus.png"))
    picture.write_bytes(picture.read_bytes()[:-1])
    argv = ["bench", "quality", f"--suite={damaged}", "--core", f"--out={tmp_path / 'q'}"]
    assert main(argv) == 2
    assert "all_in_focus.png" in capsys.readouterr().err
