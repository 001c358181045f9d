"""The console script on good and on bad input. Bad input: one line, exit code 2, nothing left."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from random_runs import save_run

from bokeh_jax.cli import main

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="session")
def run_dir(finished):
    return finished.workdir


@pytest.fixture(scope="module")
def guided_run(guided, tmp_path_factory):
    return save_run(tmp_path_factory.mktemp("guided") / "run", guided)


@pytest.fixture
def photo(tmp_path):
    """A photograph with its disparity, alone in a folder."""
    folder = tmp_path / "photo"
    folder.mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (40, 60, 3), np.uint8)).save(folder / "photo.png")
    near = np.zeros((40, 60), np.uint8)
    near[10:30, 20:40] = 255
    Image.fromarray(near).save(folder / "map.png")
    np.save(folder / "nan.npy", np.full((40, 60), np.nan, np.float32))
    np.save(folder / "small.npy", np.zeros((20, 30), np.float32))
    (folder / "text.png").write_text("not a picture")
    return folder


def refused(capsys, *argv):
    """Runs, asserts exit code 2 and one line on stderr, and returns that line."""
    assert main(list(map(str, argv))) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    return line


REFOCUS = ("refocus", "{photo}/photo.png", "--checkpoint={run}", "--out={photo}/out.png")
RENDER = ("render", "{photo}/photo.png", "--disparity={photo}/map.png", "--out={photo}/out.png")


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ((*REFOCUS, "--focus=1.2,0.5", "--blur=0.1"), "focus is (1.2, 0.5); allowed"),
        ((*REFOCUS, "--focus=middle", "--blur=0.1"), "--focus is 'middle'; allowed"),
        ((*REFOCUS, "--focus=0.5,0.5", "--blur=-0.1"), "blur is -0.1; allowed"),
        ((*REFOCUS, "--focus=0.5,0.5", "--blur=nan"), "blur is nan; allowed"),
        ((*REFOCUS, "--focus=0.5,0.5", "--blur=big"), "argument --blur: invalid float value"),
        ((*REFOCUS, "--focus=0.5,0.5", "--blur=0.1", "--steps=0"), "--steps is 0; allowed"),
        (
            (*REFOCUS, "--focus=0.5,0.5", "--blur=0.1", "--disparity={photo}/nan.npy"),
            "2400 values not finite",
        ),
        (
            (*REFOCUS, "--focus=0.5,0.5", "--blur=0.1", "--disparity={photo}/small.npy"),
            "disparity has shape (20, 30); allowed: that of the image, (40, 60)",
        ),
        (
            (*REFOCUS, "--focus=0.5,0.5", "--blur=0.1", "--disparity={photo}/none.png"),
            "none.png",
        ),
        (
            ("refocus", "{photo}/none.jpg", "--checkpoint={run}", "--focus=0,0", "--blur=0"),
            "none.jpg not found",
        ),
        (
            ("refocus", "{photo}/text.png", "--checkpoint={run}", "--focus=0,0", "--blur=0"),
            "text.png cannot be read",
        ),
        (
            ("refocus", "{photo}/photo.png", "--checkpoint={photo}", "--focus=0,0", "--blur=0"),
            "holds no checkpoint",
        ),
        (
            (*REFOCUS[:-1], "--out={photo}/out.gif", "--focus=0,0", "--blur=0"),
            "out.gif; allowed endings",
        ),
        ((*RENDER, "--focus=0.5,0.5", "--blur=0.1", "--blades=2"), "--blades is 2; allowed"),
        (("render", "{photo}/photo.png", "--focus=0,0", "--blur=0"), "--disparity"),
        (("data", "build", "--out={photo}/data", "--count=train"), "--count is 'train'; allowed"),
        (("data", "build", "--out={photo}/data", "--count=test=3"), "'test'"),
        (("data", "build", "--out={photo}/data", "--size=4"), "size_px is 4; allowed"),
        (("data", "build", "--out={photo}/data", "--source=photos"), "--photos is not given"),
        (("data", "build", "--out={photo}"), "{photo}"),
        (("eval", "--workdir={photo}"), "holds no checkpoint"),
        (("eval", "--workdir={run}", "--step=5"), "step 5"),
        (("eval", "--workdir={run}", "--config.evaluation.splits=('x',)"), "'x'"),
        (("eval", "--workdir={run}", "--config.evaluation.num_scene=3"), "evaluation.num_scene"),
        (("report", "--workdir={photo}"), "holds no evaluation/scores.json"),
        (("train", "--config={photo}/none.py", "--workdir={photo}/w"), "none.py not found"),
        (
            (
                "train",
                "--config=configs/demo.py",
                "--workdir={photo}/w",
                "--config.data.path={photo}",
            ),
            "no readable metadata.json",
        ),
        (("render", "--config.seed=1", *RENDER[1:], "--focus=0,0", "--blur=0"), "--config.seed=1"),
        (("polish",), "invalid choice: 'polish'"),
        ((), "COMMAND"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(capsys, photo, run_dir, argv, named):
    before = sorted(photo.rglob("*"))
    names = {"photo": photo, "run": run_dir}
    line = refused(capsys, *(text.format(**names) for text in argv))
    assert named.format(**names) in line
    assert sorted(photo.rglob("*")) == before


def test_refocus_answers_at_the_size_of_the_input(capsys, photo, guided_run):
    argv = ["refocus", str(photo / "photo.png"), f"--checkpoint={guided_run}"]
    asked = ["--focus=0.5,0.5", "--blur=0.05"]
    assert main([*argv, *asked, f"--disparity={photo / 'map.png'}"]) == 0
    said = capsys.readouterr().out
    # A blur of 3 px where training had 2.4: tiles of 16 px at 0.8 of the size.
    assert "lens blur at 60x40, the network's correction at 48x32 in 12 tiles and enlarged" in said
    with Image.open(photo / "photo.refocused.png") as result:
        assert result.size == (60, 40)
    sharp = photo / "sharp.png"
    told = [f"--disparity={photo / 'map.png'}", "--all-in-focus", f"--out={sharp}"]
    assert main([*argv, *asked, *told]) == 0
    capsys.readouterr()
    with Image.open(sharp) as known, Image.open(photo / "photo.refocused.png") as unknown:
        assert np.asarray(known).tolist() != np.asarray(unknown).tolist()
    out = photo / "without.webp"
    assert main([*argv, *asked, f"--out={out}"]) == 0
    assert "network at 20x12, its answer enlarged to 60x40" in capsys.readouterr().out
    with Image.open(out) as result:
        assert (result.size, result.format) == ((60, 40), "WEBP")


def test_render_keeps_what_is_in_focus(photo):
    argv = ["render", str(photo / "photo.png"), f"--disparity={photo / 'map.png'}"]
    assert main([*argv, "--focus=0.5,0.5", "--blur=0.05", "--blades=6"]) == 0
    with Image.open(photo / "photo.png") as image, Image.open(photo / "photo.rendered.png") as shot:
        before, after = np.asarray(image, int), np.asarray(shot, int)
    np.testing.assert_allclose(after[14:26, 24:36], before[14:26, 24:36], atol=1)
    # Noise blurred over a radius of 3 px loses most of its contrast.
    assert after[:6].std() < 0.5 * before[:6].std()


def test_evaluation_and_report_from_a_checkpoint(capsys, run_dir, photo, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(run_dir, workdir)
    assert main(["eval", f"--workdir={workdir}"]) == 0
    table = capsys.readouterr().out
    assert "refocus, eval_heldout" in table
    scores = json.loads((workdir / "evaluation" / "scores.json").read_text())
    assert scores["step"] == 12
    shown = scores["scores"]["eval_heldout/refocus"]["psnr_db"]["model"]["mean"]
    assert f"{shown:.2f}" in table
    assert main(["report", f"--workdir={workdir}", f"--photo=a photo={photo / 'photo.png'}"]) == 0
    said = capsys.readouterr().out
    assert str(workdir / "report.html") in said
    assert f"{shown:.2f}" in (workdir / "report.html").read_text(encoding="utf-8")


def test_contact_sheet_of_a_dataset(dataset, tmp_path):
    config = tmp_path / "mine.py"
    config.write_text(
        "from bokeh_jax.config import experiment\n"
        "def get_config():\n"
        f"    return experiment(data=dict(path={str(dataset)!r}), simulation=dict(size_px=16))\n"
    )
    out = tmp_path / "sheet.png"
    assert main(["data", "inspect", f"--config={config}", "--scenes=3", f"--out={out}"]) == 0
    with Image.open(out) as sheet:
        # All in focus, disparity, the same as told, reference, two targets, two weights: eight
        # columns of 128 px and gaps; histograms below.
        width, height = sheet.size
        assert width == 8 * 134
        assert height > 3 * 148 + 100
        pixels = np.asarray(sheet)
        assert pixels[: 3 * 148].std() > 30
        bars = (pixels[3 * 148 :] == (70, 130, 180)).all(axis=-1)
        columns = bars[:, : 4 * 252].reshape(bars.shape[0], 4, 252).any(axis=0).sum(axis=1)
        assert (columns > 8).all(), "four histograms, of more than one value each"


def test_demo_photo_and_its_map(tmp_path):
    assert main(["data", "photo", f"--out={tmp_path / 'p'}"]) == 0
    with Image.open(tmp_path / "p" / "photo.disparity.png") as image:
        disparity = np.asarray(image) / 65535.0
    with Image.open(tmp_path / "p" / "photo.png") as image:
        assert image.size[::-1] == disparity.shape
    assert disparity.max() == 1.0
    assert disparity.min() > 0.05


def test_every_command_explains_itself(capsys):
    for argv in (
        ["train"], ["eval"], ["report"], ["refocus"], ["render"], ["data"],
        ["data", "build"], ["data", "inspect"], ["data", "photo"], ["plan"],
        ["checkpoint", "ls"], ["checkpoint", "inspect"], ["checkpoint", "verify"],
        ["checkpoint", "prune"], ["bench", "lens-blur"], ["bench", "data"], ["bench", "train-step"],
    ):  # fmt: skip
        with pytest.raises(SystemExit) as ended:
            main([*argv, "--help"])
        assert ended.value.code == 0
        assert "usage: bokeh-jax" in capsys.readouterr().out


BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"tensorflow", "torch", "transformers", "diffusers", "gradio"}:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
"""


def test_the_core_imports_with_tensorflow_and_torch_blocked():
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for package in ("bokeh_jax", "data_pipeline", "configs")
        for path in sorted((ROOT / package).rglob("*.py"))
    ]
    assert "bokeh_jax.training.train" in names
    # Programs for an interpreter that has torch, one run and two written out; imported by nothing.
    names.remove("bokeh_jax.commands.bench_train_step_torch")
    names = [name for name in names if ".torch_model." not in name]
    code = BLOCK + "import importlib\nfor name in sys.argv[1:]: importlib.import_module(name)\n"
    done = subprocess.run(
        [sys.executable, "-W", "error::ImportWarning", "-c", code, *names],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


def test_module_and_console_script_are_one(tmp_path):
    """`python -m bokeh_jax.training.train` refuses what `bokeh-jax train` refuses, in a process."""
    argv = ["--config=configs/none.py", f"--workdir={tmp_path / 'w'}"]
    script = Path(sys.executable).parent / "bokeh-jax"
    outcomes = [
        subprocess.run(
            [*command, *argv], cwd=ROOT, capture_output=True, text=True, timeout=300,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
        )
        for command in (
            [sys.executable, "-m", "bokeh_jax.training.train"],
            [str(script), "train"],
        )
    ]  # fmt: skip
    assert [done.returncode for done in outcomes] == [2, 2]
    assert outcomes[0].stderr == outcomes[1].stderr
    assert outcomes[0].stderr.count("\n") == 1
