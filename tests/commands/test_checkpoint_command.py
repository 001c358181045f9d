"""`bokeh-jax checkpoint` on a run's folder, whole and damaged."""

import dataclasses
import shutil

import jax
import pytest

from bokeh_jax.cli import main
from bokeh_jax.training import checkpoint, hosts
from bokeh_jax.training.saver import open_saver
from bokeh_jax.training.state import create_state


@pytest.fixture(scope="module")
def saved(tiny, tmp_path_factory):
    """Five checkpoints, all kept: 7, 14, ..., 35."""
    workdir = tmp_path_factory.mktemp("runs") / "saved"
    training = dataclasses.replace(tiny.training, keep_checkpoints=5)
    config = dataclasses.replace(tiny, training=training)
    state = jax.jit(lambda: create_state(config))()
    with open_saver(workdir, config) as saver:
        for step in range(7, 42, 7):
            saver.save(state, checkpoint.DataPosition(step, 3, "0123456789abcdef"))
    return workdir


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def damage(workdir, step):
    (workdir / "checkpoints" / str(step) / "_CHECKPOINT_METADATA").unlink()


def test_ls_tells_step_time_size_code_and_position(saved, copy, capsys):
    assert main(["checkpoint", "ls", f"--workdir={saved}"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["step", "time", "(UTC)", "size", "code", "next", "batch"]
    assert [int(line.split()[0]) for line in lines] == [7, 14, 21, 28, 35]
    assert hosts.code_version()[:12] in lines[0]
    assert "step 7, seed 3, dataset 0123456789ab" in lines[0]
    assert " MB " in lines[0]
    damage(copy, 28)
    (copy / "checkpoints" / "14").rename(copy / "checkpoints" / "14.damaged")
    assert main(["checkpoint", "ls", f"--workdir={copy}"]) == 0
    said = capsys.readouterr().out
    assert "damaged" in next(line for line in said.splitlines() if line.split()[0] == "28")
    assert "moved aside: 14.damaged" in said


def test_inspect_shows_parameters_and_differences(saved, tmp_path, capsys):
    assert main(["checkpoint", "inspect", f"--workdir={saved}", "--step=14", "--norms"]) == 0
    lines = capsys.readouterr().out.splitlines()
    kernel = next(line.split() for line in lines if line.startswith("camera/flags/kernel"))
    assert kernel[1:3] == ["3x32", "float32"]
    assert float(kernel[3]) > 0
    assert "next batch: step 14, seed 3" in lines
    assert any(line.startswith("params:     37,904 values in ") for line in lines)
    assert "  model.hidden_dim = 32, not 256" in lines
    config = tmp_path / "mine.py"
    config.write_text(
        "from bokeh_jax.config import experiment\n"
        "def get_config():\n    return experiment(seed=3)\n"
    )
    argv = ["checkpoint", "inspect", f"--workdir={saved}", f"--config={config}"]
    assert main([*argv, "--config.training.global_batch_size=4"]) == 0
    said = capsys.readouterr().out
    assert "  seed = 0, not 3" in said
    assert "global_batch_size" not in said
    assert "  name = 'tiny', not 'default'" in said


def test_verify_names_the_damaged_and_exits_with_1(saved, copy, capsys):
    assert main(["checkpoint", "verify", f"--workdir={saved}"]) == 0
    assert capsys.readouterr().out.count(": whole, 123 arrays as saved") == 5
    damage(copy, 28)
    assert main(["checkpoint", "verify", f"--workdir={copy}"]) == 1
    said = capsys.readouterr().out
    assert "28: damaged: its record" in said
    assert said.count(": whole") == 4
    assert main(["checkpoint", "verify", f"--workdir={copy}", "--step=7"]) == 0


def test_prune_keeps_what_is_asked_and_the_newest_whole(copy, capsys):
    for step in (28, 35):
        damage(copy, step)
    (copy / "checkpoints" / "6.damaged").mkdir()
    argv = ["checkpoint", "prune", f"--workdir={copy}", "--keep=1", "--keep-every=14"]
    assert main([*argv, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "would remove 7, " in said
    assert checkpoint.steps(copy) == [7, 14, 21, 28, 35]
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert "kept 14, 21, 28, 35; the newest whole one is 21" in said
    assert checkpoint.steps(copy) == [14, 21, 28, 35]
    assert (copy / "checkpoints" / "6.damaged").is_dir()
    assert main(["checkpoint", "prune", f"--workdir={copy}", "--keep=1", "--damaged"]) == 0
    assert checkpoint.steps(copy) == [21, 35]
    assert not (copy / "checkpoints" / "6.damaged").exists()


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["ls", "--workdir={none}"], "holds no checkpoint"),
        (["inspect", "--workdir={saved}", "--step=8"], "step 8 is not in"),
        (["inspect", "--workdir={saved}", "--config.seed=1"], "--config is not given"),
        (["verify", "--workdir={saved}", "--step=8"], "step 8 is not in"),
        (["verify", "--workdir={saved}", "--config.seed=1"], "allowed only with"),
        (["prune", "--workdir={saved}", "--keep=0"], "--keep is 0; allowed: 1 or more"),
        (["prune", "--workdir={saved}", "--keep=1", "--keep-every=-1"], "--keep-every is -1"),
        (["prune", "--workdir={saved}"], "--keep"),
    ],
)
def test_what_is_wrong_is_one_line(saved, tmp_path, capsys, argv, named):
    words = [text.format(saved=saved, none=tmp_path / "none") for text in argv]
    assert main(["checkpoint", *words]) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    assert named in line
    assert checkpoint.steps(saved) == [7, 14, 21, 28, 35]


def test_nothing_is_removed_where_none_is_whole(copy, capsys):
    for step in checkpoint.steps(copy):
        damage(copy, step)
    assert main(["checkpoint", "prune", f"--workdir={copy}", "--keep=1"]) == 2
    assert "are damaged; allowed: one that is whole" in capsys.readouterr().err
    assert checkpoint.steps(copy) == [7, 14, 21, 28, 35]


@pytest.mark.parametrize("command", ["ls", "inspect", "verify", "prune"])
def test_every_command_explains_itself(capsys, command):
    with pytest.raises(SystemExit) as ended:
        main(["checkpoint", command, "--help"])
    assert ended.value.code == 0
    assert "--workdir" in capsys.readouterr().out
