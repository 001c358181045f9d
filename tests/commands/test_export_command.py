"""`bokeh-jax export`: what it refuses leaves nothing behind. What it writes: tests/interop."""

import re

import jax
import pytest
from random_runs import save_run
from tiny_experiment import TINY

from bokeh_jax import config as config_lib
from bokeh_jax.cli import main
from bokeh_jax.training import checkpoint
from bokeh_jax.training.saver import open_saver
from bokeh_jax.training.state import create_state


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return save_run(tmp_path_factory.mktemp("runs") / "pixels", config_lib.resolve(TINY))


@pytest.fixture(scope="module")
def other_runs(run, tmp_path_factory):
    """The same arrays under configs for which they are no use: only refusals come of these."""
    folder = tmp_path_factory.mktemp("other_runs")
    codec = {
        "kind": "autoencoder",
        "autoencoder": {"block_out_channels": (4, 8), "norm_num_groups": 2},
    }
    flux = {"reference_as": "tokens", "text_dim": 6, "pooled_dim": 5}
    changes = {
        "autoencoder": {"task": "autoencoder", "codec": codec},
        "unadapted": {"model": TINY["model"] | flux},
    }
    tiny = config_lib.resolve(TINY)
    state = jax.jit(lambda: create_state(tiny))()
    for name, change in changes.items():
        config = config_lib.resolve(TINY | change)
        with open_saver(folder / name, config) as saver:
            saver.save(state, checkpoint.DataPosition(7, 3, "0123456789abcdef"))
    return folder


def refused(arguments, capsys):
    assert main(["export", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"error: .*; allowed[: ].*\n", captured.err), captured.err
    return captured.err


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("nothing", (), "holds no checkpoint"),
        ("RUN", ("--step=8",), "checkpoint of step 8 is not in"),
        (
            "RUN",
            ("--format=diffusers",),
            "--format is 'diffusers' and the network is not of FLUX's shape (model.reference_as is "
            "'channels', not 'tokens', model.text_dim is None, not a number, model.pooled_dim is "
            "None, not a number); allowed: --format=torch",
        ),
        ("RUN", ("--format=peft",), "the network is not of FLUX's shape"),
        ("unadapted", ("--format=peft",), "has no adapters (model.lora.rank is 0)"),
        ("autoencoder", (), "is a run with task='autoencoder'; allowed: 'refocus'"),
        (
            "unadapted",
            ("--config.model.reference_sees=itself",),
            "model.reference_sees is 'itself'; allowed: 'all'",
        ),
        ("RUN", ("--config.model.hidden=3",), "unknown config key model.hidden"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    name, flags, message, run, other_runs, tmp_path, capsys
):
    workdir = run if name == "RUN" else other_runs / name
    out = tmp_path / "new" / "out"
    said = refused([f"--checkpoint={workdir}", f"--out={out}", *flags], capsys)
    assert message in said
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_refused(run, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    said = refused([f"--checkpoint={run}", f"--out={tmp_path}"], capsys)
    assert f"{tmp_path} exists; allowed: a new or an empty folder" in said
    file = tmp_path / "mine.txt"
    assert "exists" in refused([f"--checkpoint={run}", f"--out={file}"], capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_place_that_cannot_be_written_is_refused(run, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "out"
    assert "cannot be written" in refused([f"--checkpoint={run}", f"--out={out}"], capsys)


def test_wrong_flags_are_refused(run, tmp_path, capsys):
    place = [f"--checkpoint={run}", f"--out={tmp_path / 'out'}"]
    for flags in (["--ema", "--raw"], ["--dtype=float64"], ["--format=onnx"]):
        assert main(["export", *place, *flags]) == 2
        assert capsys.readouterr().err.startswith("error: bokeh-jax export: ")
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_it_wrote(run, tmp_path, capsys):
    out = tmp_path / "deep" / "out"
    assert main(["export", f"--checkpoint={run}", f"--out={out}", "--raw", "--step=7"]) == 0
    first, *files = capsys.readouterr().out.splitlines()
    assert first == f"{out}: raw parameters of step 7"
    names = [line.split(",")[0].strip() for line in files]
    assert names == [
        "README.md",
        "config.json",
        "model.safetensors",
        "modeling_bokeh.py",
        "refocus.py",
    ]
    assert sorted(path.name for path in out.iterdir()) == names
    assert [path.name for path in out.parent.iterdir()] == ["out"]
