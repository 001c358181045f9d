"""What a report leaves behind: JSON lines, TensorBoard points under the same names, a line."""

import json
import subprocess
import sys
import time

import pytest
from board_points import points_of

from bokeh_jax.training.board import own_writer
from bokeh_jax.training.progress import describe, make_reporter
from bokeh_jax.training.writers import METRICS_FILE, open_writer, read_metrics

VALUES = {
    "loss": 0.25,
    "steps_per_second": 2.0,
    "images_per_second": 8.0,
    "device_tflops_per_second": 0.123456,
}


def test_json_and_tensorboard_hold_the_same_under_the_same_names(tmp_path):
    writer = open_writer(tmp_path, 0)
    writer.scalars(3, VALUES)
    writer.scalars(4, {"loss": float("nan"), "gradient_norm": float("inf")})
    writer.close()
    lines = (tmp_path / METRICS_FILE).read_text().splitlines()
    assert json.loads(lines[0]) == {"step": 3} | VALUES
    assert json.loads(lines[1]) == {"step": 4, "loss": None, "gradient_norm": None}
    points = points_of(tmp_path / "tensorboard")
    assert [(step, name) for step, name, _ in points] == [
        *((3, name) for name in VALUES),
        (4, "loss"),
        (4, "gradient_norm"),
    ]
    assert [value for _, _, value in points[:4]] == pytest.approx(list(VALUES.values()))


def test_a_resumed_run_drops_what_it_will_repeat_and_a_line_cut_short(tmp_path):
    writer = open_writer(tmp_path, 0)
    for step in (1, 2, 3):
        writer.scalars(step, {"loss": float(step)})
    writer.close()
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write('{"step": 4, "lo')
    writer = open_writer(tmp_path, 2)
    writer.scalars(3, {"loss": 30.0})
    writer.close()
    assert [line["loss"] for line in read_metrics(tmp_path / METRICS_FILE)] == [1.0, 2.0, 30.0]


def test_writers_of_one_second_keep_their_points_apart(tmp_path):
    time.sleep(1.0 - time.time() % 1.0)  # The names are of the second: both within this one.
    for step in (3, 7):
        board = own_writer(tmp_path, f"step-{step}")
        board.add_scalar("loss", float(step), step)
        board.close()
    assert sorted(points_of(tmp_path)) == [(3, "loss", 3.0), (7, "loss", 7.0)]


def test_a_line_shows_mfu_or_else_tflops(capsys):
    assert describe(VALUES) == "loss 0.2500  2.00 steps/s  8 images/s  0.123 TFLOP/s"
    assert describe(VALUES | {"mfu_percent": 45.67}) == (
        "loss 0.2500  2.00 steps/s  8 images/s  MFU 45.7 %"
    )
    # No terminal here: lines with the time left.
    with make_reporter(0, 200) as screen:
        screen.report(20, VALUES)
    assert capsys.readouterr().out == f"step 20/200  {describe(VALUES)}  ETA 1:30\n"
    with make_reporter(0, 200, visible=False) as screen:
        screen.report(20, VALUES)
    assert capsys.readouterr().out == ""


def test_a_trainer_starts_without_torch_and_leaves_it_to_be_imported():
    program = (
        "import sys, bokeh_jax.training.train, bokeh_jax.commands.evaluate\n"
        "assert 'torch' not in sys.modules and 'tensorflow' not in sys.modules\n"
        "import torch\n"
        "from bokeh_jax.training.board import SummaryWriter\n"
        "print(torch.ones(2).sum().item(), SummaryWriter.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "2.0 SummaryWriter\n", done.stderr
