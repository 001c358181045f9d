"""`bokeh-jax plan --sweep`: mesh layouts, batch sizes and remat policies, ranked.

Every candidate is planned by a process of its own: the compiler's memory goes back, and where the
compiler itself dies (libtpu ends the process when a check of its own fails), the others go on.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bokeh_jax.commands.json_file import write_figures
from bokeh_jax.commands.plan_report import headline, print_sweep
from bokeh_jax.commands.tpu_compiler import topology_devices
from bokeh_jax.config import ExperimentConfig
from bokeh_jax.errors import InvalidInput
from bokeh_jax.models.config import REMATS

_AXES = ("data", "fsdp", "tensor")


def sweep(arguments: argparse.Namespace, overrides: list[str], config: ExperimentConfig) -> int:
    """Plans every candidate, prints the table, and returns the exit code.

    Raises:
        InvalidInput: a list of the command line, libtpu or the topology.
    """
    devices = topology_devices(arguments.topology, "--topology", arguments.slices)
    meshes = _meshes(arguments.meshes, len(devices), config)
    batches = _batches(arguments.batches, config)
    remats = _remats(arguments.remats)
    rows: list[dict[str, Any]] = []
    too_small: set[tuple[str, str]] = set()
    for mesh, remat, batch in itertools.product(meshes, remats, sorted(batches)):
        row = {"mesh": mesh, "global_batch_size": batch, "remat": remat}
        if (mesh, remat) in too_small:
            row["refused"] = "a smaller batch did not fit"
        else:
            row |= _planned(arguments, [*overrides, *_overrides(mesh, batch, remat)])
        if "a chip's memory" in row.get("refused", ""):
            too_small.add((mesh, remat))
        rows.append(row)
        print(_one_line(row, len(rows)), file=sys.stderr, flush=True)
    rows.sort(key=lambda row: -_rank(row))
    print_sweep(rows)
    if arguments.json is not None:
        write_figures(arguments.json, rows)
    return 0


def _rank(row: dict[str, Any]) -> float:
    """Photographs a day with no collective hidden; below 0 where refused."""
    return headline(row["plan"])["images_per_day"] if "plan" in row else -1.0


def _one_line(row: dict[str, Any], number: int) -> str:
    what = f"{number}: mesh {row['mesh']}, batch {row['global_batch_size']}, remat {row['remat']}"
    if "refused" in row:
        return f"{what}: {row['refused']}"
    return f"{what}: MFU {100 * headline(row['plan'])['mfu']:.1f} %"


def _planned(arguments: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    """{"plan": what the plan's JSON says} or {"refused": why}."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.json"
        command = [sys.executable, "-m", "bokeh_jax.cli", "plan"]
        command += [f"--config={arguments.config}", f"--topology={arguments.topology}"]
        command += [f"--slices={arguments.slices}", f"--json={path}"]
        if arguments.scenes is not None:
            command.append(f"--scenes={arguments.scenes}")
        if arguments.without_simulation:
            command.append("--without-simulation")
        command += [f"--config.{override}" for override in overrides]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["fits"]:
                return {"plan": found}
            memory = found["memory"]
            return {
                "refused": f"needs {memory['total'] / 2**30:.1f} of "
                f"{memory['capacity'] / 2**30:.1f} GiB of a chip's memory"
            }
    lines = done.stderr.strip().splitlines() or ["nothing was said"]
    said = [line for line in lines if line.startswith("error: ")] or lines[-1:]
    if said[0].startswith("error: "):
        return {"refused": said[0].removeprefix("error: ")}
    return {"refused": f"the compiler ended with exit code {done.returncode}: {said[0][:200]}"}


def _overrides(mesh: str, batch: int, remat: str) -> list[str]:
    sizes = dict(item.split("=") for item in mesh.split(","))
    # What the candidate does not name is 1, and data takes what is left.
    named = {"data": "-1"} | dict.fromkeys(_AXES[1:], "1") | sizes
    return [
        *(f"mesh.{axis}={size}" for axis, size in named.items()),
        f"training.global_batch_size={batch}",
        f"model.remat={remat}",
    ]


def _meshes(text: str | None, count: int, config: ExperimentConfig) -> list[str]:
    if text is None:
        found = [f"fsdp={count // part}" for part in (1, 4, 16) if count % part == 0]
        if count % 2 == 0 and config.model.num_heads % 2 == 0:
            found.append(f"fsdp={count // 2},tensor=2")
        return found
    meshes = text.split(";")
    for mesh in meshes:
        items = [item.partition("=") for item in mesh.split(",")]
        if not all(axis in _AXES and size.isdigit() for axis, _, size in items):
            raise InvalidInput(
                f"--meshes holds {mesh!r}; allowed: sizes of {', '.join(_AXES)}, as in "
                "'fsdp=64;fsdp=32,tensor=2'"
            )
    return meshes


def _batches(text: str | None, config: ExperimentConfig) -> list[int]:
    if text is None:
        size = config.training.global_batch_size
        return [size, 2 * size]
    items = text.split(",")
    if not all(item.isdigit() and int(item) for item in items):
        raise InvalidInput(f"--batches is {text!r}; allowed: whole numbers with commas between")
    return [int(item) for item in items]


def _remats(text: str | None) -> list[str]:
    names: list[str] = [*REMATS] if text is None else text.split(",")
    for name in names:
        if name not in REMATS:
            raise InvalidInput(f"--remats holds {name!r}; allowed: {', '.join(REMATS)}")
    return names
