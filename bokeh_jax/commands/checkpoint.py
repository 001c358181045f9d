"""`bokeh-jax checkpoint`: ls, inspect, verify, prune."""

import argparse
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from bokeh_jax import config as config_lib
from bokeh_jax.errors import InvalidInput
from bokeh_jax.leaf_names import leaves_by_name
from bokeh_jax.training import checkpoint
from bokeh_jax.training.checkpoint_record import DamagedCheckpoint

EXIT_DAMAGED = 1
_PARTS = ("params", "ema", "opt_state")


def list_checkpoints(arguments: argparse.Namespace) -> int:
    """One line a checkpoint, the newest last; what is moved aside is named."""
    checkpoint.existing_step(arguments.workdir)
    print(f"{'step':>10}  {'time (UTC)':16}  {'size':>9}  {'code':12}  next batch")
    for step in checkpoint.steps(arguments.workdir):
        path = checkpoint.directory(arguments.workdir) / str(step)
        size = _megabytes(_size_bytes(path))
        try:
            stored = checkpoint.read_step(arguments.workdir, step)
        except DamagedCheckpoint as error:
            print(f"{step:>10}  {'damaged':16}  {size:>9}  {error.reason}")
            continue
        record, time = stored.record, stored.time
        print(
            f"{step:>10}  {f'{time:%Y-%m-%d %H:%M}' if time else 'unknown':16}  {size:>9}  "
            f"{record.code_version[:12]}  step {record.position.next_step}, seed "
            f"{record.position.seed}, dataset {record.position.dataset_fingerprint[:12]}"
        )
    for path in _moved_aside(arguments.workdir):
        print(f"moved aside: {path.name}, {_megabytes(_size_bytes(path))}")
    return 0


def _files(path: epath.Path) -> Iterator[epath.Path]:
    for entry in path.iterdir():
        if entry.is_dir():
            yield from _files(entry)
        else:
            yield entry


def _size_bytes(path: epath.Path) -> int:
    return sum(file.stat().length for file in _files(path))


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB"


def _moved_aside(workdir: epath.PathLike) -> list[epath.Path]:
    folder = checkpoint.directory(workdir)
    return sorted(path for path in folder.iterdir() if ".damaged" in path.name)


def inspect_checkpoint(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """What a checkpoint holds: its record, its parameters, and where its config is its own."""
    if overrides and arguments.config is None:
        raise InvalidInput("--config is not given; allowed: with --config.KEY=VALUE, a config file")
    other = config_lib.load(arguments.config, overrides) if arguments.config else None
    step = checkpoint.existing_step(arguments.workdir, arguments.step)
    stored = checkpoint.read_step(arguments.workdir, step)
    record = stored.record
    print(f"checkpoint {stored.path}")
    print(f"next batch: step {record.position.next_step}, seed {record.position.seed}")
    print(f"dataset:    {record.position.dataset_fingerprint}")
    print(f"code:       {record.code_version}")
    _print_parameters(stored, norms=arguments.norms)
    leaves = leaves_by_name(stored.tree)
    for part in _PARTS:
        values = [leaf for name, leaf in leaves.items() if name.split("/")[0] == part]
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in values)
        number = sum(leaf.size for leaf in values)
        print(f"{part + ':':11} {number:,} values in {len(values)} arrays, {_megabytes(size)}")
    _print_config_differences(record.config, other or config_lib.ExperimentConfig())
    return 0


def _print_parameters(stored: checkpoint.Stored, *, norms: bool) -> None:
    values: dict[str, float] = {}
    if norms:
        for group in checkpoint.read_in_groups(stored, "params/"):
            values |= {name: float(_norm(leaf)) for name, leaf in group.items()}
    rows = [
        (
            name.removeprefix("params/"),
            "x".join(map(str, leaf.shape)) or "scalar",
            str(leaf.dtype),
            f"{values[name]:.4g}" if norms else "",
        )
        for name, leaf in leaves_by_name(stored.tree).items()
        if name.startswith("params/")
    ]
    titles = ("parameter", "shape", "dtype", "norm" if norms else "")
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    for row in (titles, *rows):
        print(
            "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def _norm(leaf: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(leaf.astype(jnp.float32))))


def _print_config_differences(saved: dict[str, Any], other: config_lib.ExperimentConfig) -> None:
    there = _flat(saved)
    here = _flat(json.loads(json.dumps(dataclasses.asdict(other))))
    lines = [
        f"  {key} = {there.get(key, '(unknown)')!r}, not {here.get(key, '(unknown)')!r}"
        for key in sorted(there.keys() | here.keys())
        if there.get(key) != here.get(key)
    ]
    print("config differs in:" if lines else "config: no difference")
    for line in lines:
        print(line)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def verify_checkpoints(arguments: argparse.Namespace) -> int:
    """Reads every byte; 1 where a checkpoint is damaged."""
    checkpoint.existing_step(arguments.workdir, arguments.step)
    steps = checkpoint.steps(arguments.workdir) if arguments.step is None else [arguments.step]
    damaged = 0
    for step in steps:
        try:
            stored = checkpoint.verify(arguments.workdir, step)
        except DamagedCheckpoint as error:
            damaged += 1
            print(f"{step}: damaged: {error.reason}")
            continue
        print(f"{step}: whole, {len(stored.record.checksums)} arrays as saved")
    return EXIT_DAMAGED if damaged else 0


def prune_checkpoints(arguments: argparse.Namespace) -> int:
    """Removes old checkpoints; never the newest that is whole."""
    if arguments.keep < 1:
        raise InvalidInput(f"--keep is {arguments.keep}; allowed: 1 or more")
    if arguments.keep_every < 0:
        raise InvalidInput(f"--keep-every is {arguments.keep_every}; allowed: 0 or more")
    checkpoint.existing_step(arguments.workdir)
    steps = checkpoint.steps(arguments.workdir)
    kept = set(steps[-arguments.keep :]) | {
        step for step in steps if arguments.keep_every and step % arguments.keep_every == 0
    }
    whole = _newest_whole(arguments.workdir, steps)
    if whole is None:
        raise InvalidInput(
            f"all checkpoints of {arguments.workdir} are damaged; allowed: one that is whole, "
            "before others are removed"
        )
    folder = checkpoint.directory(arguments.workdir)
    removed = [folder / str(step) for step in steps if step not in kept | {whole}]
    removed += _moved_aside(arguments.workdir) if arguments.damaged else []
    verb = "would remove" if arguments.dry_run else "removed"
    for path in removed:
        size = _megabytes(_size_bytes(path))
        if not arguments.dry_run:
            path.rmtree()
        print(f"{verb} {path.name}, {size}")
    remaining = ", ".join(str(step) for step in steps if step in kept | {whole})
    print(f"kept {remaining}; the newest whole one is {whole}")
    return 0


def _newest_whole(workdir: epath.PathLike, steps: list[int]) -> int | None:
    for step in reversed(steps):
        try:
            checkpoint.verify(workdir, step)
        except DamagedCheckpoint as error:
            print(f"{step}: damaged: {error.reason}")
            continue
        return step
    return None
