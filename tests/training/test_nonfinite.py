"""A scene whose numbers overflow in the step: real data, nothing replaced."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from real_jobs import assert_same_state, load_state, start, write_config

from bokeh_jax.config import resolve
from bokeh_jax.training import checkpoint, nonfinite
from bokeh_jax.training.train import train
from bokeh_jax.training.writers import METRICS_FILE, read_metrics
from data_pipeline.builder import build
from data_pipeline.loader import LoaderConfig, make_loader
from data_pipeline.source import LayeredScene

BAD_STEP = 6
NUM_STEPS = 12  # as the tiny experiment has, whose compiled steps are used again


@dataclasses.dataclass(frozen=True)
class NoiseSource:
    """Layers of noise; those of one scene lie at finite disparities that overflow when summed."""

    bad: int = -1
    name: str = "noise"

    def recipe(self):
        return {"source": self.name, "bad": self.bad}

    def num_scenes(self, split):
        return None

    def scene(self, split, index):
        rng = np.random.default_rng([index, split == "train"])
        layers = rng.integers(0, 256, (3, 26, 26, 4), np.uint8)
        layers[-1, ..., 3] = 255
        far = np.float32(3e38) if split == "train" and index == self.bad else np.float32(0)
        planes = np.array([[0, 0, 0.9], [0, 0, 0.5], [0, 0, 0.1]], np.float32) + far
        return LayeredScene(
            layers=layers, layer_disparity=planes, layer_gain=np.ones(3, np.float32)
        )


def scenes_of_steps(path, config):
    loader = make_loader(
        LoaderConfig(path, global_batch_size=config.training.global_batch_size, seed=config.seed)
    )
    found = [tuple(next(loader)["scene_id"].tolist()) for _ in range(NUM_STEPS)]
    loader.close()
    return found


@dataclasses.dataclass(frozen=True)
class Trap:
    config: object
    """The scenes of the step that is not finite."""
    scenes: tuple[int, ...]


@pytest.fixture(scope="module")
def trap(tiny, tmp_path_factory):
    """A dataset of which step 6 and no other of 12 has the bad scene."""
    assert tiny.training.num_steps == NUM_STEPS
    folder = tmp_path_factory.mktemp("data")
    counts = {"train": 4 * NUM_STEPS, "eval_heldout": 1}
    build(NoiseSource(), folder / "good", counts=counts, num_workers=0)
    scenes = scenes_of_steps(folder / "good", tiny)[BAD_STEP - 1]
    build(NoiseSource(bad=scenes[1]), folder / "bad", counts=counts, num_workers=0)
    assert scenes_of_steps(folder / "bad", tiny)[BAD_STEP - 1] == scenes
    data = dataclasses.replace(tiny.data, path=str(folder / "bad"))
    settings = dataclasses.replace(tiny.training, image_every_steps=0, keep_checkpoints=20)
    return Trap(dataclasses.replace(tiny, data=data, training=settings), scenes)


def with_training(config, **changes):
    return dataclasses.replace(config, training=dataclasses.replace(config.training, **changes))


@pytest.fixture(scope="module")
def skipped(trap, tmp_path_factory):
    """A run that skips, with a checkpoint of every step."""
    workdir = tmp_path_factory.mktemp("skip") / "run"
    config = with_training(trap.config, on_nonfinite="skip", checkpoint_every_steps=1)
    train(config, workdir, visible=False)
    return config, workdir


def test_skip_leaves_all_but_the_step_as_it_was_and_goes_on(trap, skipped):
    config, workdir = skipped
    before, after = (load_state(config, workdir, step) for step in (BAD_STEP - 1, BAD_STEP))
    for number in (before, after):
        number.pop("next_step")
    assert (before.pop(".step"), after.pop(".step")) == (BAD_STEP - 1, BAD_STEP)
    assert_same_state(before, after)
    last = load_state(config, workdir, NUM_STEPS)
    assert last[".step"] == NUM_STEPS
    assert all(np.isfinite(leaf).all() for leaf in last.values())
    assert any((last[name] != after[name]).any() for name in after)

    lines = read_metrics(workdir / METRICS_FILE)
    assert [line["lost_steps"] for line in lines] == [float(n == BAD_STEP) for n in range(1, 13)]
    assert [line["step"] for line in lines if line["loss"] is None] == [BAD_STEP]
    (found,) = map(json.loads, (workdir / nonfinite.FILE).read_text().splitlines())
    assert (found["step"], tuple(found["scene_id"])) == (BAD_STEP, trap.scenes)
    assert {"loss", "gradient_norm"} <= set(found["not_finite"])


def test_rollback_goes_on_from_the_checkpoint_without_the_step(trap, skipped, tmp_path, capsys):
    config = with_training(
        trap.config, on_nonfinite="rollback", checkpoint_every_steps=4, log_every_steps=2
    )
    train(config, tmp_path / "run", visible=False)
    said = capsys.readouterr().out
    scenes = ", ".join(map(str, trap.scenes))
    assert f"step {BAD_STEP} is not finite in " in said
    assert f"its batch holds scenes {scenes}; training.on_nonfinite=rollback: going back" in said
    assert said.count(f"resumed from {tmp_path / 'run'} at step 4") == 1
    ours = load_state(config, tmp_path / "run", NUM_STEPS)
    assert_same_state(ours, load_state(*skipped, NUM_STEPS))
    lines = read_metrics(tmp_path / "run" / METRICS_FILE)
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
    assert all(line["loss"] is not None for line in lines)


def test_stop_saves_nothing_of_what_came_after(trap, tmp_path):
    """The next report is far away: the verdict comes before the save of step 8."""
    config = with_training(trap.config, checkpoint_every_steps=4, log_every_steps=100)
    with pytest.raises(nonfinite.NonfiniteStep, match=f"step {BAD_STEP} .*on_nonfinite=stop"):
        train(config, tmp_path / "run", visible=False)
    assert checkpoint.steps(tmp_path / "run") == [4]


@pytest.mark.long  # `make test`: one process above; all decide by the same sums.
def test_two_processes_stop_at_the_same_step_with_one_exit_code(trap, tmp_path):
    file = tmp_path / "experiment.py"
    write_config(file, trap.config)
    job = start(file, tmp_path / "run", "training.checkpoint_every_steps=4", processes=2)
    assert job.end() == nonfinite.EXIT_NONFINITE, job.said()[-3000:]
    for process in (0, 1):
        assert f"process {process}: error: step {BAD_STEP} is not finite in" in job.said()
    assert f"scenes {', '.join(map(str, trap.scenes))}; training.on" in job.said()
    assert checkpoint.steps(tmp_path / "run") == [4]


@pytest.mark.long
def test_two_processes_roll_back_together(trap, tmp_path):
    file = tmp_path / "experiment.py"
    config = write_config(file, trap.config)
    ends = []
    for policy in ("skip", "rollback"):
        workdir = tmp_path / policy
        job = start(
            file,
            workdir,
            "training.checkpoint_every_steps=4",
            f"training.on_nonfinite={policy}",
            processes=2,
        )
        assert job.end() == 0, job.said()[-3000:]
        ends.append(load_state(config, workdir, NUM_STEPS))
    assert job.said().count("going back to the newest checkpoint") == 1
    assert_same_state(*ends)


def window(*usable, first=1):
    """Metrics of steps, merged as the loop merges them."""
    merged = None
    for index, good in enumerate(usable):
        loss = jnp.float32(1.0 if good else jnp.nan)
        step = nonfinite.LostSteps.of_step(
            jnp.bool(good),
            jnp.int32(first + index),
            {"loss": loss, "other": jnp.float32(1)},
            jnp.full(2, index, jnp.int32),
        )
        merged = step if merged is None else merged.merge(step)

    @dataclasses.dataclass(frozen=True)
    class Metrics:
        lost_steps: nonfinite.LostSteps

    assert merged is not None
    return Metrics(merged), len(usable)


def test_a_window_tells_of_its_first_lost_step(tmp_path, capsys):
    judge = nonfinite.Judge("skip", tmp_path / "found")
    judge.check(*window(True, True))
    assert not (tmp_path / "found").exists()
    judge.check(*window(True, False, True, False, first=11))
    assert json.loads((tmp_path / "found").read_text()) == {
        "step": 12,
        "not_finite": ["loss"],
        "scene_id": [1, 1],
        "policy": "skip",
        "steps_in_window": 2,
    }
    assert (
        "step 12 is not finite in loss; its batch holds scenes 1, 1; skipped, and 1 more of 4"
        in (capsys.readouterr().out)
    )


def test_a_run_that_makes_no_update_any_more_ends_even_where_it_skips():
    judge = nonfinite.Judge("skip", None)
    for _ in range(nonfinite.MAX_LOST_STEPS // 4 - 1):
        judge.check(*window(*[False] * 4))
    judge.check(*window(True, False, False, False))
    for _ in range(nonfinite.MAX_LOST_STEPS // 4):
        judge.check(*window(*[False] * 4))
    with pytest.raises(nonfinite.NonfiniteStep, match="none of the last 52 steps could be applied"):
        judge.check(*window(*[False] * 4))


def test_gradients_alone_may_be_at_fault():
    assert nonfinite.is_usable(jnp.float32(1), jnp.float32(2))
    assert not nonfinite.is_usable(jnp.float32(1), jnp.float32(jnp.inf))
    assert not nonfinite.is_usable(jnp.float32(jnp.nan), jnp.float32(1))


def test_a_policy_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"training.on_nonfinite is 'ignore'; allowed: one of"):
        resolve({"training": {"on_nonfinite": "ignore"}})
