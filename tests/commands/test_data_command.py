"""`bokeh-jax data build` as it is typed: what it makes, says and refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bokeh_jax.cli import main
from data_pipeline.dataset import dataset_info, load_split, open_split, read_metadata


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Five photographs with maps, two of them wide."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for index in range(5):
        shape = (40, 60) if index < 2 else (40, 40)
        pixels = rng.integers(0, 256, (*shape, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        np.save(folder / f"{index}.disparity.npy", rng.random(shape, np.float32))
    return folder


def run(capsys, *argv) -> str:
    assert main(["data", "build", "--workers=0", *map(str, argv)]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    return output.out


def test_photographs_and_layers_in_one_command(capsys, photos, tmp_path):
    out = tmp_path / "out"
    said = run(
        capsys,
        *("--out", out, "--size", 24, "--size", 32, "--ratios", "1:1,3:2", "--heldout=0.2"),
        *("--source", f"photos={photos}", "--source", "layered=9", "--source", "layered=3"),
        *("--weight", "photos=2.5", "--weight", "layered-2=0.5", "--max-layers=3"),
        *("--count", "eval_heldout=1", "--jpeg-quality=95"),
    )
    info = dataset_info(out)
    assert dict(info.counts) == {"train": 16, "eval_seen": 3, "eval_heldout": 3}
    assert info.weights == {"photos": 2.5, "layered": 1.0, "layered-2": 0.5}
    sizes = {(g.height_px, g.width_px) for g in info.splits["train"] if g.source == "photos"}
    assert sizes <= {(32, 32), (26, 39)}
    assert {g.max_layers for g in info.splits["train"] if g.kind == "layered"} <= {2, 3}
    assert open_split(out, "train").values(0)["frames"].startswith(b"\xff\xd8")
    assert said.startswith(f"built {out}: train 16 (")
    assert said.endswith(f" MB, fingerprint {info.fingerprint[:12]}\n")
    assert "; 0 dropped, 0 damaged, " in said
    assert said.count("\n") == 1
    again = run(
        capsys,
        *("--out", out, "--size", 24, "--size", 32, "--ratios", "1:1,3:2", "--heldout=0.2"),
        *("--source", f"photos={photos}", "--source", "layered=9", "--source", "layered=3"),
        *("--weight", "photos=2.5", "--weight", "layered-2=0.5", "--max-layers=3"),
        *("--count", "eval_heldout=1", "--jpeg-quality=95"),
    )
    assert again == said.replace("built", "kept", 1)


def test_earlier_spellings(capsys, photos, tmp_path):
    few = ("--count=train=3", "--count=eval_seen=0", "--count=eval_heldout=2")
    run(capsys, "--source=layered", "--max-layers=2", f"--out={tmp_path / 'demo'}", *few)
    assert dict(dataset_info(tmp_path / "demo").counts) == {"train": 3, "eval_heldout": 2}
    assert load_split(tmp_path / "demo", "train")["layers"].shape == (3, 2, 48, 48, 4)
    run(capsys, "--source", "photos", "--photos", photos, "--size=32", "--out", tmp_path / "b")
    assert dict(dataset_info(tmp_path / "b").counts) == {"train": 4, "eval_heldout": 1}


def test_numbers_of_scenes_by_default(photos):
    from bokeh_jax.cli import build_parser
    from bokeh_jax.commands.data_sources import mixture_of

    def counts(*argv: str) -> list[dict[str, int]]:
        arguments = build_parser().parse_args(["data", "build", "--out=x", *argv])
        return [dict(part.counts or {}) for part in mixture_of(arguments).parts]

    assert counts() == [{"train": 2000, "eval_seen": 128, "eval_heldout": 128}]
    assert counts("--source=layered=100") == [{"train": 100, "eval_seen": 13, "eval_heldout": 13}]
    several = ("--source=photographer=8", f"--source=photos={photos}", "--count=train=3")
    assert counts(*several) == [
        {"train": 3, "eval_seen": 1, "eval_heldout": 1},
        {"train": 3, "eval_heldout": 1},
    ]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--source=paintings"], "--source is 'paintings'; allowed: layered, photographer, photos"),
        (["--source=layered=many"], "--source is 'layered=many'; allowed: layered=N with a whole"),
        (["--source=layered=²"], "--source is 'layered=²'; allowed"),
        (["--source=photos"], "--photos is not given; allowed with --source photos: a folder"),
        (["--source=photos=nowhere"], "photographs nowhere are not there; allowed"),
        (["--weight=layered"], "--weight is 'layered'; allowed: NAME=W such as photos=0.5"),
        (["--weight=layered=much"], "--weight is 'layered=much'; allowed: a number"),
        (["--weight=photos=2"], "--weight is for photos; allowed: layered"),
        (["--weight=layered=0"], "weight of layered is 0.0; allowed: above 0"),
        (["--count=train"], "--count is 'train'; allowed: SPLIT=N such as train=2000"),
        (["--count=test=3"], "split is 'test'; allowed: train"),
        (["--count=train=0", "--count=eval_seen=0", "--count=eval_heldout=0"], "has no scenes"),
        (["--size=4"], "size_px is 4; allowed"),
        (["--ratios=1:1,wide"], "ratio is 'wide'; allowed"),
        (["--max-damaged-share=2"], "max_damaged_share is 2.0; allowed: 0 to 1"),
        (["--jpeg-quality=0"], "jpeg_quality is 0; allowed: 1 to 100"),
        (["--workers=-1"], "num_workers is -1; allowed: 0 to"),
        (["--beam-options=--a"], "beam_options are --a; allowed only with a runner"),
        (["--beam-options='", "--runner=DirectRunner"], '--beam-options is "\'" (No closing'),
        (["--runner=Shoes", "--count=train=1"], "runner is 'Shoes'"),
    ],
)
def test_bad_values_are_one_line(capsys, tmp_path, argv, message):
    assert main(["data", "build", f"--out={tmp_path / 'out'}", *argv]) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert message in line
    assert line.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_damaged_photographs_are_counted_and_listed(capsys, photos, tmp_path):
    for path in photos.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    picture = tmp_path / "3.png"
    picture.write_bytes(picture.read_bytes()[:2000])
    argv = ("--source", f"photos={tmp_path}", "--size=32", "--heldout=0", f"--out={tmp_path}/out")
    assert main(["data", "build", "--workers=1", *argv]) == 2
    assert "damaged candidates are 1 of 5, such as 3" in capsys.readouterr().err
    said = run(capsys, *argv, "--max-damaged-share=0.2")
    assert "train 4 (" in said
    assert "; 0 dropped, 1 damaged, " in said
    (line,) = (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()
    assert json.loads(line)["damaged"]
    assert read_metadata(tmp_path / "out")["splits"]["train"]["num_damaged"] == 1


def test_an_interrupted_command_continues_to_the_same_bytes(capsys, tmp_path):
    # Enough scenes for the interrupt to come before the end, on a busy machine too.
    argv = ["--source=layered=240", "--count=eval_seen=0", "--count=eval_heldout=0"]
    argv += ["--scenes-per-shard=16"]
    run(capsys, *argv, "--out", tmp_path / "whole")
    command = [sys.executable, "-m", "bokeh_jax.cli", "data", "build", "--workers=1", *argv]
    command += ["--out=out"]
    where = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(Path.cwd())}}
    sidecars = tmp_path / "out.building" / "sidecars"
    pipe = subprocess.PIPE
    # What a shell puts into the background ignores interrupts, and so would its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # A terminal interrupts all processes of a command: the worker keeps quiet.
    with subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, start_new_session=True, **where
    ) as process:
        while process.poll() is None and not list(sidecars.glob("*.json")):
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate()[1]
    assert (process.returncode, said) == (130, "stopped; the same command continues\n")
    assert not (tmp_path / "out").exists()
    subprocess.run(command, check=True, stdout=subprocess.PIPE, **where)
    files = {
        name: {p.name: p.read_bytes() for p in (tmp_path / name).iterdir()}
        for name in ("whole", "out")
    }
    assert files["out"] == files["whole"]


def test_help_shows_an_example(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["data", "build", "--help"])
    assert exit.value.code == 0
    said = capsys.readouterr().out
    assert "bokeh-jax data build --out data/demo --max-layers 2" in said
    for name in ("--source", "--weight", "--runner", "--beam-options", "--max-damaged-share"):
        assert name in said
