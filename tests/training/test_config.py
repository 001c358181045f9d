import dataclasses

import ml_collections
import pytest

from bokeh_jax import config as config_lib
from bokeh_jax.config import ExperimentConfig, experiment, resolve
from bokeh_jax.errors import InvalidInput


def test_sparse_changes_are_laid_over_typed_defaults():
    config = resolve(experiment(name="x", model={"hidden_dim": 64, "rope_axes_dim": [4, 6, 6]}))
    assert config.name == "x"
    assert config.model.hidden_dim == 64
    assert config.model.rope_axes_dim == (4, 6, 6)
    default = ExperimentConfig()
    assert config.training == default.training
    assert dataclasses.replace(config, name=default.name, model=default.model) == default


def test_command_line_goes_over_the_file():
    config = resolve(
        experiment(training={"num_steps": 10, "log_every_steps": 3}, optimizer={"warmup_steps": 2}),
        ["training.num_steps=20", "optimizer.peak_learning_rate=1e-4", "objective.guide=false"],
    )
    assert config.training.num_steps == 20
    assert config.training.log_every_steps == 3
    assert config.optimizer.peak_learning_rate == 1e-4
    assert config.objective.guide is False


def test_an_integer_is_taken_where_a_number_is_meant():
    value = resolve({}, ["objective.stacking_weight=1"]).objective.stacking_weight
    assert isinstance(value, float)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("training.num_step=3", r"unknown config key training.num_step;.*num_steps\?"),
        ("trainin.num_steps=3", r"unknown config key trainin;.*training\?"),
        ("training.num_steps=many", r"training.num_steps is 'many'; allowed: an integer"),
        ("training.num_steps=2.5", r"training.num_steps is 2.5; allowed: an integer"),
        ("training.num_steps=true", r"training.num_steps is True; allowed: an integer"),
        ("training.num_steps=0", r"training.num_steps is 0; allowed: above 0"),
        ("training=3", r"config key training is 3; allowed: a group"),
        ("objective.guide=1", r"objective.guide is 1; allowed: true or false"),
        (
            "objective.prediction=noise",
            r"objective.prediction is 'noise'; allowed: one of 'sample'",
        ),
        ("model.rope_axes_dim=4", r"model.rope_axes_dim is 4; allowed: a list of an integer"),
        ("model.text_dim=x", r"model.text_dim is 'x'; allowed: an integer or nothing"),
        ("simulation.cameras.num_targets=1", r"simulation.cameras.*num_targets is 1"),
        ("optimizer.warmup_steps=5000", r"optimizer.warmup_steps is 5000"),
        ("optimizer.ema_decay=1.0", r"optimizer.ema_decay is 1.0"),
        ("training.num_steps", r"override 'training.num_steps'; allowed"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(override, named):
    with pytest.raises(InvalidInput, match=named) as caught:
        resolve({}, [override])
    assert "\n" not in str(caught.value)


def test_json_round_trip_and_hash():
    config = resolve({}, ["model.hidden_dim=128", "model.rope_axes_dim=(8, 12, 12)"])
    again = config_lib.from_json(config_lib.to_json(config))
    assert again == config
    assert config_lib.config_hash(again) == config_lib.config_hash(config)
    other = resolve({}, ["seed=1"])
    assert config_lib.config_hash(other) != config_lib.config_hash(ExperimentConfig())


def test_config_is_a_static_argument():
    assert hash(resolve({})) == hash(resolve({}))


def test_experiment_files_load(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from bokeh_jax.config import experiment\n"
        "def get_config():\n"
        "    return experiment(name='mine')\n"
    )
    assert config_lib.load(path, ["seed=4"]) == resolve({"name": "mine"}, ["seed=4"])


def test_missing_and_wrong_files_are_refused(tmp_path):
    with pytest.raises(InvalidInput, match=r"nothing.py not found"):
        config_lib.load(tmp_path / "nothing.py")
    empty = tmp_path / "empty.py"
    empty.write_text("")
    with pytest.raises(InvalidInput, match=r"defines no get_config"):
        config_lib.load(empty)
    text = tmp_path / "notes.txt"
    text.write_text("")
    with pytest.raises(InvalidInput, match=r"ending in .py"):
        config_lib.load(text)


def test_experiment_is_an_ml_collections_config():
    assert isinstance(experiment(seed=1), ml_collections.ConfigDict)


@pytest.mark.parametrize("path", sorted(__import__("pathlib").Path("configs").glob("[a-z]*.py")))
def test_every_config_of_the_repository_resolves(path):
    assert config_lib.load(path).name == path.stem


def test_the_choice_called_none_is_a_name_and_nothing_stays_nothing():
    overrides = ["model.remat=none", "depth_objective.alignment=none", "model.text_dim=none"]
    config = config_lib.resolve({"model": {"remat": "full", "text_dim": 8}}, overrides)
    assert config.model.remat == config.depth_objective.alignment == "none"
    assert config.model.text_dim is None
    with pytest.raises(InvalidInput, match=r"model.attention is None; allowed: one of"):
        config_lib.resolve({}, ["model.attention=none"])
