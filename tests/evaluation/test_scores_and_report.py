import base64
import dataclasses
import io
import json
import re

import jax
import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from bokeh_jax.evaluation.methods import BASELINES, METHODS, NAMES
from bokeh_jax.evaluation.metrics import mean_with_interval, psnr_db
from bokeh_jax.evaluation.report import Page, results_table, verdict, write_report
from bokeh_jax.evaluation.report_parts import Picture, line_chart, slider
from bokeh_jax.evaluation.suite import TASKS, evaluate, summary, task_simulation
from bokeh_jax.models import init_params


def test_psnr_against_scikit_image():
    rng = np.random.default_rng(0)
    truth, images = rng.uniform(size=(2, 5, 8, 9, 3)).astype(np.float32)
    expected = [
        peak_signal_noise_ratio(a, b, data_range=1.0) for a, b in zip(truth, images, strict=True)
    ]
    np.testing.assert_allclose(psnr_db(images, truth), expected, rtol=1e-6)
    np.testing.assert_allclose(psnr_db(truth, truth), 20 * np.log10(255 * 4), rtol=1e-6)


def test_mean_and_interval_by_hand():
    mean = mean_with_interval(np.array([1.0, 2.0, 3.0, 6.0]))
    # s² = (4 + 1 + 0 + 9) / 3, half width 1.96 √(s²/4)
    assert mean.mean == 3.0
    assert mean.half_width == pytest.approx(1.96 * (14 / 3 / 4) ** 0.5)
    assert mean_with_interval(np.array([1.0])).half_width == float("inf")
    with pytest.raises(ValueError, match=r"0 values"):
        mean_with_interval(np.array([]))


def test_the_interval_covers_the_mean_in_95_of_100_draws():
    rng = np.random.default_rng(1)
    covered = [
        abs(mean.mean - 4.0) <= mean.half_width
        for mean in (mean_with_interval(rng.normal(4.0, 2.0, 100)) for _ in range(2000))
    ]
    assert 0.93 < np.mean(covered) < 0.965


@pytest.fixture(scope="module")
def told_all_ways(tiny):
    """Scores of start values, whose answer is the lens blur itself."""
    params = jax.jit(lambda: init_params(tiny.model, jax.random.key(0), 16, 16))()
    told = dataclasses.replace(tiny.evaluation, disparity=("clean", "damaged", "absent"))
    return evaluate(dataclasses.replace(tiny, evaluation=told), params)


@pytest.fixture(scope="module")
def untrained(told_all_ways):
    return [result for result in told_all_ways if result.disparity == "clean"]


def test_damaged_and_absent_disparity_are_asked_of_the_same_scenes(told_all_ways, untrained):
    found = {result.key: result for result in told_all_ways}
    assert len(found) == 3 * len(untrained)
    for clean in untrained:
        damaged, absent = (found[f"{clean.key}/{kind}"] for kind in ("damaged", "absent"))
        # The truth is photographed with the true disparity, whatever is told of it.
        for result in (damaged, absent):
            np.testing.assert_array_equal(result.psnr_db["unchanged"], clean.psnr_db["unchanged"])
            np.testing.assert_array_equal(result.asked["blur"], clean.asked["blur"])
        assert set(absent.psnr_db) == {"unchanged", "model"}
        # An untrained network without disparity answers with the photograph.
        np.testing.assert_allclose(absent.psnr_db["model"], absent.psnr_db["unchanged"], atol=1e-3)
    hurt = found["eval_heldout/add_bokeh/damaged"].psnr_db["lens_blur"]
    assert hurt.mean() < found["eval_heldout/add_bokeh"].psnr_db["lens_blur"].mean() - 1.0


def test_blends_are_scored_with_the_weights_of_the_constraint(untrained):
    for result in untrained:
        assert set(result.stacked_psnr_db) == set(METHODS)
        focus = result.asked["focus_change"]
        assert result.asked["blur"].shape == focus.shape == (8,)
        assert focus.min() >= 0.0
    # A blend of sharp regions hides what is wrong in the defocused ones.
    add = next(result for result in untrained if result.task == "add_bokeh")
    assert add.stacked_psnr_db["lens_blur"].mean() > add.psnr_db["lens_blur"].mean()
    assert np.ptp(add.asked["blur"]) > 0


def test_every_task_is_scored_on_every_split(untrained, tiny):
    found = {(result.split, result.task) for result in untrained}
    assert found == {(split, task) for split in tiny.evaluation.splits for task in TASKS}
    for result in untrained:
        assert all(len(result.psnr_db[method]) == 8 for method in METHODS)
        assert result.pictures.shape == (6, 9, 16, 16, 3)
        gain = result.psnr_db["model_known_camera"] - result.psnr_db["lens_blur_known_camera"]
        for rows, first in ((result.best, gain.argmax()), (result.worst, gain.argmin())):
            assert rows.shape == (3, 9, 16, 16, 3)
            found = psnr_db(rows[:1, METHODS.index("unchanged")], rows[:1, -1])
            np.testing.assert_allclose(found, result.psnr_db["unchanged"][first], atol=1e-4)


def test_an_untrained_network_scores_as_the_lens_blur(untrained):
    for result in untrained:
        pairs = [("model", "lens_blur"), ("model_known_camera", "lens_blur_known_camera")]
        # Asked for all in focus it returns the reference: nothing is known to be missing.
        pairs += [("two_stage", "lens_blur"), ("two_stage_known_camera", "lens_blur")]
        for model, blur in pairs:
            np.testing.assert_allclose(result.psnr_db[model], result.psnr_db[blur], atol=1e-3)
            assert abs(result.gain(model, blur).mean) < 1e-3


def test_knowing_the_camera_helps_where_the_reference_is_defocused(untrained):
    scores = {result.task: result for result in untrained}
    gain = scores["refocus"].gain("model_known_camera", "lens_blur")
    assert gain.mean > 0.5
    # A sharp reference lacks all of the blur, whether that is known or assumed.
    sharp = scores["add_bokeh"].psnr_db
    np.testing.assert_allclose(sharp["lens_blur_known_camera"], sharp["lens_blur"], atol=1e-3)


def test_tasks_differ_as_their_names_say(untrained):
    means = {result.task: result for result in untrained}
    # Blurring a sharp photograph is what the lens blur is made for.
    assert means["add_bokeh"].gain("model", "unchanged").mean > 3.0
    # Asked for blur 0 it returns the reference.
    deblur = means["deblur"].psnr_db
    np.testing.assert_allclose(deblur["lens_blur"], deblur["unchanged"], atol=1e-3)


def test_task_simulation_changes_only_the_rates(tiny):
    simulation = task_simulation(tiny.simulation, "add_bokeh")
    assert simulation.cameras.all_in_focus_reference_rate == 1.0
    assert simulation.cameras.blur_fraction_max == tiny.simulation.cameras.blur_fraction_max
    assert simulation.size_px == tiny.simulation.size_px


GAIN = {"mean": 2.5, "half_width": 0.1, "count": 9}


def scores_with_gain(gain, half_width):
    entry = {"mean": gain, "half_width": half_width, "count": 9}
    psnr = {name: {"mean": 25.0, "half_width": 0.5, "count": 9} for name in METHODS}
    psnr["model"] = {"mean": 26.0, "half_width": 0.5, "count": 9}
    del psnr["two_stage"]
    gains = {"model": {"unchanged": entry, "lens_blur": entry}}
    return {"eval_heldout/refocus": {"images": 9, "psnr_db": psnr, "gain_db": gains}}


@pytest.mark.parametrize(
    ("gain", "half_width", "word"),
    [
        (1.0, 0.5, "ahead of"),
        (-1.0, 0.5, "behind"),
        (0.4, 0.5, "not told apart from"),
        (-0.4, 0.5, "not told apart from"),
    ],
)
def test_the_verdict_says_what_the_interval_allows(gain, half_width, word):
    sentence = verdict(scores_with_gain(gain, half_width), "eval_heldout", "model")
    assert sentence.count(word) == 2
    assert f"{gain:+.2f}" in sentence


def test_what_was_not_compared_is_not_shown(tmp_path):
    write_report(tmp_path / "r.html", Page("t", ["words"], scores_with_gain(1.0, 0.2)))
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Other runs" not in text
    assert "by step" not in text
    assert "Before and after" not in text
    assert "Against blur" not in text


def test_the_best_of_every_task_is_bold():
    rows = re.findall(r"<tr>.*?</tr>", results_table(scores_with_gain(1.0, 0.2)))
    assert [row for row in rows if "class=best" in row] == [
        "<tr><td>model</td><td class=best>26.00 ± 0.50</td></tr>"
    ]


def test_a_method_without_an_answer_has_a_dash():
    rows = re.findall(r"<tr>.*?</tr>", results_table(scores_with_gain(1.0, 0.2)))
    dashes = [row for row in rows if "<td>–</td>" in row]
    assert dashes == [f"<tr><td>{NAMES['two_stage']}</td><td>–</td></tr>"]


def test_a_slider_of_two_sizes_is_refused():
    small, large = (Picture("p", np.zeros((4, width, 3), np.float32)) for width in (4, 5))
    with pytest.raises(ValueError, match=r"\(4, 4, 3\) and \(4, 5, 3\); allowed: one shape"):
        slider(small, large)


def test_a_chart_places_points_by_value():
    chart = line_chart("t", {"a": [(0, 1.0), (10, 3.0), (5, 2.0)]}, size=(200, 100))
    points = re.search(r'points="([^"]+)"', chart)
    assert points is not None
    (x0, y0), (x1, y1), (x2, y2) = (
        tuple(map(float, pair.split(","))) for pair in points.group(1).split()
    )
    assert x0 < x2 < x1
    assert y0 > y2 > y1
    assert x2 == pytest.approx((x0 + x1) / 2)
    assert y2 == pytest.approx((y0 + y1) / 2)
    assert "no values" in line_chart("t", {"a": []})


def test_the_report_is_one_file_with_its_pictures_inside(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.uniform(size=(8, 12, 3)).astype(np.float32)
    path = tmp_path / "report.html"
    scores = scores_with_gain(1.0, 0.2)
    photo = Picture("photo", image)
    page = Page(
        title="a < b",
        summary_lines=["words"],
        scores=scores,
        metric_lines=[{"step": 1, "loss": 1.0, "flow_loss": 2.0}, {"step": 2, "flow_loss": 1.0}],
        history={100: scores, 200: scores},
        against={"eval_heldout/refocus": {"blur": {"model": [(0.02, 31.0), (0.08, 27.0)]}}},
        comparisons={"runs/other": {"eval_heldout/refocus": dict.fromkeys(BASELINES, GAIN)}},
        task_pictures=[Picture("scenes & more", image, pixels=True)],
        sliders=[(photo, Picture("after", 1.0 - image))],
        photo_pictures=[photo],
    )
    write_report(path, page)
    text = path.read_text(encoding="utf-8")
    assert "a &lt; b" in text
    assert "scenes &amp; more" in text
    assert "26.00 ± 0.50" in text
    assert "http" not in text
    encoded = re.findall(r"base64,([^\"]+)", text)
    # The two of the slider, the scenes, the photograph.
    expected = (image, 1.0 - image, image, image)
    assert len(encoded) == len(expected)
    for data, pixels in zip(encoded, expected, strict=True):
        with Image.open(io.BytesIO(base64.b64decode(data))) as shown:
            np.testing.assert_allclose(np.asarray(shown) / 255.0, pixels, atol=0.6 / 255)
    assert "runs/other: model" in text
    assert "PSNR in dB by step: refocus, held-out" in text
    assert "PSNR in dB by blur K / width: refocus, held-out" in text
    assert text.index("2.50 ± 0.10") > text.index("Other runs")
    assert list(tmp_path.iterdir()) == [path]


def test_the_summary_survives_json(untrained):
    tree = json.loads(json.dumps(summary(untrained)))
    assert set(tree) == {f"{result.split}/{result.task}" for result in untrained}
    assert tree["eval_heldout/deblur"]["images"] == 8
