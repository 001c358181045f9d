import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from bokeh_jax import config as config_lib
from bokeh_jax.training import checkpoint
from bokeh_jax.training.preemption import EXIT_PREEMPTED
from bokeh_jax.training.writers import METRICS_FILE, read_metrics

ROOT = Path(__file__).parent.parent.parent


def test_sigterm_saves_and_the_same_command_goes_on(tiny, tmp_path):
    config = tmp_path / "long.py"
    changes = json.loads(config_lib.to_json(tiny))
    changes["training"] |= {"num_steps": 100_000, "checkpoint_every_steps": 100_000}
    config.write_text(
        "import json\n"
        "from bokeh_jax.config import experiment\n"
        f"def get_config():\n    return experiment(**json.loads({json.dumps(changes)!r}))\n"
    )
    workdir = tmp_path / "run"
    command = [sys.executable, "-m", "bokeh_jax.training.train", f"--config={config}"]
    process = subprocess.Popen(
        [*command, f"--workdir={workdir}"],
        cwd=ROOT,
        env=os.environ,
        stdout=subprocess.PIPE,
        text=True,
    )
    metrics, deadline = workdir / METRICS_FILE, time.monotonic() + 300
    while not (metrics.exists() and len(read_metrics(metrics)) >= 3):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=180)
    assert process.returncode == EXIT_PREEMPTED, said
    saved = checkpoint.existing_step(workdir)
    assert f"stopped by a signal at step {saved}; the same command continues" in said
    # Every step that ran was reported and is in the checkpoint: nothing was lost.
    assert read_metrics(metrics)[-1]["step"] == saved

    more = f"--config.training.num_steps={saved + 2}"
    done = subprocess.run(
        [*command, f"--workdir={workdir}", more],
        cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"resumed from {workdir} at step {saved}" in done.stdout
    assert [line["step"] for line in read_metrics(metrics)] == list(range(1, saved + 3))
