"""Arms that are compared: in pairs of questions and seeds, and no claim without both agreeing."""

import json
from pathlib import Path

import numpy as np
import pytest

from bokeh_jax import config as config_lib
from bokeh_jax.cli import main
from bokeh_jax.commands.claims import _changes, same_questions
from bokeh_jax.evaluation import claims
from bokeh_jax.evaluation.claims import ARMS, COMPARISONS, PLAIN, Comparison, compare

ASKED = Comparison(1, "stacking", PLAIN, "refocus")
NOISE = np.random.default_rng(0).normal(size=40)


def images(shift, spread=0.0, column=claims.MODEL):
    """Scores of one run: what all find hard, and what this one does better."""
    values = 30.0 + 5.0 * NOISE + shift + spread * np.cos(np.arange(40))
    return {"eval_heldout/refocus": {column: values}}


def test_what_all_find_hard_cancels():
    found = compare(ASKED, [images(0.2, 0.1)], [images(0.0)], "eval_heldout")
    assert found.difference.mean == pytest.approx(0.2, abs=0.01)
    assert 0.15 < found.difference.low < found.difference.high < 0.25
    assert found.ours - found.theirs == pytest.approx(found.difference.mean)
    assert found.verdict == "ahead"
    turned = compare(ASKED, [images(0.0)], [images(0.2, 0.1)], "eval_heldout")
    assert turned.verdict == "behind"


def test_seeds_that_disagree_claim_nothing():
    ours = [images(0.5), images(0.4), images(-0.1)]
    theirs = [images(0.0, 0.1)] * 3
    found = compare(ASKED, ours, theirs, "eval_heldout")
    assert found.difference.low > 0.0
    np.testing.assert_allclose(found.by_seed, (0.5, 0.4, -0.1), atol=0.01)
    assert found.verdict == "not told apart"


def test_first_seeds_are_paired_where_one_arm_has_more():
    found = compare(ASKED, [images(1.0)], [images(0.5), images(9.0)], "eval_heldout")
    assert found.by_seed == pytest.approx((0.5,))
    with pytest.raises(ValueError, match="no run of one arm"):
        compare(ASKED, [], [images(0.0)], "eval_heldout")


def test_columns_of_one_run_are_compared():
    one = images(0.3)
    one["eval_heldout/refocus"] |= images(0.0, column="two_stage_known_camera")[
        "eval_heldout/refocus"
    ]
    asked = Comparison(3, PLAIN, PLAIN, "refocus", claims.MODEL, "two_stage_known_camera")
    found = compare(asked, [one], [one], "eval_heldout")
    assert found.difference.mean == pytest.approx(0.3)
    row = claims.markdown([(asked, "eval_heldout", found)]).splitlines()[-1]
    assert "| 3 | plain | its two stages | refocus | eval_heldout |" in row
    assert "| +0.300 [+0.300, +0.300] | +0.300 | ahead |" in row


def test_every_arm_is_compared_and_differs_in_what_it_says():
    compared = {name for asked in COMPARISONS for name in (asked.arm, asked.against)}
    assert compared == {arm.name for arm in ARMS}
    seeds = {arm.name: arm.seeds for arm in ARMS}
    # Claims 1 and 2 rest on three seeds of both sides.
    assert seeds[PLAIN] == seeds["stacking"] == seeds["dropout_and_damage"] == 3
    config = config_lib.load("configs/refocus_small.py")
    assert config.objective.stacking_weight == 0.0
    assert config.objective.depth_dropout_rate == config.objective.depth_noise.rate == 0.0
    found = set()
    for arm in ARMS:
        changes = _changes(arm, 1, 150, config, Path("runs/base"))
        changed = config_lib.load(
            "configs/refocus_small.py", [change.removeprefix("--config.") for change in changes]
        )
        assert changed.seed == 2, "seed 0 is the common run's"
        assert changed.training.num_steps == 150
        assert (changed.training.init_from == "runs/base") == arm.forks
        found.add((changed.objective, changed.simulation))
    assert len(found) == len(ARMS)


def test_arms_with_other_cameras_meet_the_same_questions():
    config = config_lib.load("configs/refocus_small.py")
    arms = {arm.name: arm for arm in ARMS}
    assert same_questions(arms["stacking"], config) == []
    assert same_questions(arms["stacking_of_3"], config) == [
        "--config.simulation.cameras.num_targets=2"
    ]
    assert same_questions(arms["soft_mask"], config) == [
        "--config.simulation.stacking_softness_px=0.5"
    ]


def test_guidance_calls_the_network_twice():
    assert claims.evaluations(4, 1.0) == 4
    assert claims.evaluations(4, 1.5) == 8
    labels = {claims.sampler_label(*sampler) for sampler in claims.SAMPLERS}
    assert len(labels) == len(claims.SAMPLERS)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--arms=plain,stackin", "--arms has 'stackin'; allowed: plain, stacking, "),
        ("--fork-steps=3", "--fork-steps is 3; allowed: above 10"),
        ("--seeds=0", "--seeds is 0; allowed: 1 or more"),
    ],
)
def test_bad_values_are_refused_before_anything_is_trained(capsys, tmp_path, option, said):
    out = tmp_path / "runs"
    assert main(["bench", "claims", "--config=configs/demo.py", f"--out={out}", option]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.long
def test_a_campaign_goes_on_where_it_was(tiny, tmp_path, capsys):
    """Real processes: the common run, two arms and their evaluations, then all of it again."""
    file = tmp_path / "experiment.py"
    values = json.loads(config_lib.to_json(tiny))
    file.write_text(f"def get_config():\n    return {values!r}\n", encoding="utf-8")
    out = tmp_path / "runs"
    asked = [f"--config={file}", f"--out={out}", "--fork-steps=12", "--arms=plain,stacking"]
    asked.append("--seeds=1")
    once = ["--config.training.num_steps=12", "--config.training.checkpoint_every_steps=12"]
    assert main(["bench", "claims", *asked, *once]) == 0
    table = (out / "claims.md").read_text(encoding="utf-8")
    assert "| 1 | stacking | plain | refocus | eval_heldout |" in table
    assert "its two stages" in table
    assert {path.name for path in out.iterdir() if path.is_dir()} == {
        "base",
        "plain-0",
        "stacking-0",
    }
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.ocdbt")}
    scored = (out / "plain-0/evaluation/step_12/scores.json").stat().st_mtime_ns
    capsys.readouterr()
    assert main(["bench", "claims", *asked, *once]) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.ocdbt")} == before
    assert (out / "plain-0/evaluation/step_12/scores.json").stat().st_mtime_ns == scored
    assert "training to step" not in capsys.readouterr().out
