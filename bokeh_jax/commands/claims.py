"""`bokeh-jax bench claims`: trains and evaluates the arms of `evaluation.claims`, and compares.

Every run and evaluation is a process of its own, started as a user would start it, so what is
compared is what `bokeh-jax train` and `bokeh-jax eval` do.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bokeh_jax import config as config_lib
from bokeh_jax.commands.evaluate import EVALUATION_FOLDER, SCORES_FILE, folder_of, read_images
from bokeh_jax.errors import InvalidInput
from bokeh_jax.evaluation import claims
from bokeh_jax.evaluation.claims import ARMS, COMPARISONS, Arm
from bokeh_jax.evaluation.metrics import mean_with_interval
from bokeh_jax.training import checkpoint
from bokeh_jax.training.log import log

BASE = "base"
TABLE_FILE = "claims.md"
# A forked run goes on at half the common run's rate and ends near zero, so that it settles.
_FORKED = ("optimizer.warmup_steps=10", "optimizer.final_fraction=0.02")
_RATE_OF_A_FORK = 0.5


def bench_claims(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Runs what is missing and writes the table; returns the exit code.

    Raises:
        InvalidInput: a name or number that is not allowed, or a run or evaluation that failed.
    """
    arms = _arms(arguments.arms)
    if arguments.seeds is not None and arguments.seeds < 1:
        raise InvalidInput(f"--seeds is {arguments.seeds}; allowed: 1 or more")
    for name in ("fork_steps", "fresh_steps"):
        if getattr(arguments, name) <= 10:
            option = name.replace("_", "-")
            raise InvalidInput(f"--{option} is {getattr(arguments, name)}; allowed: above 10")
    config = config_lib.load(arguments.config, overrides)
    base = arguments.out / BASE
    common = (f"--config={arguments.config}", *(f"--config.{change}" for change in overrides))
    _train(base, config.training.num_steps, common)
    for arm, seed in _runs(arms, arguments.seeds):
        workdir = arguments.out / f"{arm.name}-{seed}"
        steps = arguments.fork_steps if arm.forks else arguments.fresh_steps
        _train(workdir, steps, (*common, *_changes(arm, seed, steps, config, base)))
        _evaluate(workdir, claims.ALL_DISPARITIES, *same_questions(arm, config))
        _write(arguments.out)
    if arguments.arms is None or arguments.samplers_of is not None:
        sampled = arguments.out / (arguments.samplers_of or BASE)
        for num_steps, guidance_scale in claims.SAMPLERS:
            _evaluate(
                sampled,
                ("clean",),
                f"--label={claims.sampler_label(num_steps, guidance_scale)}",
                f"--config.sampler.num_steps={num_steps}",
                f"--config.sampler.guidance_scale={guidance_scale}",
            )
        _write(arguments.out, sampled)
    print((arguments.out / TABLE_FILE).read_text(encoding="utf-8"))
    return 0


def _arms(names: str | None) -> list[Arm]:
    known = {arm.name: arm for arm in ARMS}
    asked = list(known) if names is None else names.split(",")
    for name in asked:
        if name not in known:
            raise InvalidInput(f"--arms has {name!r}; allowed: {', '.join(known)}")
    return [known[name] for name in asked]


def _runs(arms: Sequence[Arm], most: int | None) -> Iterator[tuple[Arm, int]]:
    """First seeds first, so that every arm has a run early; at most so many of each."""
    seeds = max(arm.seeds for arm in arms)
    for seed in range(seeds if most is None else min(most, seeds)):
        for arm in arms:
            if seed < arm.seeds:
                yield arm, seed


def _changes(
    arm: Arm, seed: int, steps: int, config: config_lib.ExperimentConfig, base: Path
) -> list[str]:
    """Arguments of a run that differ from the common one's."""
    changes = [*arm.changes, f"seed={seed + 1}", f"training.num_steps={steps}"]
    changes += [f"training.checkpoint_every_steps={steps}", f"name={arm.name}"]
    if arm.forks:
        rate = _RATE_OF_A_FORK * config.optimizer.peak_learning_rate
        changes += [*_FORKED, f"optimizer.peak_learning_rate={rate}", f"training.init_from={base}"]
    return [f"--config.{change}" for change in changes]


def same_questions(arm: Arm, config: config_lib.ExperimentConfig) -> list[str]:
    """Arguments that ask an arm what all are asked, where it was trained with other cameras."""
    tree = json.loads(config_lib.to_json(config))
    asked = []
    for change in arm.changes:
        key = change.partition("=")[0]
        if key.startswith("simulation."):
            value = tree
            for name in key.split("."):
                value = value[name]
            asked.append(f"--config.{key}={value}")
    return asked


def _train(workdir: Path, steps: int, arguments: Sequence[str]) -> None:
    if steps in checkpoint.steps(workdir):
        return
    log(f"{workdir}: training to step {steps}")
    _started("train", f"--workdir={workdir}", *arguments)


def _evaluate(workdir: Path, disparity: Sequence[str], *more: str) -> None:
    """Scores the run; done again only with other settings (`--all`)."""
    log(f"{workdir}: evaluating {' '.join(more)}")
    told = str(list(disparity)).replace(" ", "")
    _started(
        "eval", f"--workdir={workdir}", "--all", f"--config.evaluation.disparity={told}", *more
    )


def _started(*arguments: str) -> None:
    command = [sys.executable, "-m", "bokeh_jax.cli", *arguments]
    # Its output is this one's; only what it says of errors is kept, for the last line.
    code = subprocess.run(command, check=False).returncode
    if code:
        raise InvalidInput(
            f"`bokeh-jax {' '.join(arguments)}` ended with exit code {code}; allowed: 0 (what it "
            "said stands above; started again, the campaign goes on from here)"
        )


def _images(out: Path, arm: str) -> list[claims.Images]:
    """Of all evaluated seeds of an arm, in their order."""
    found = []
    for seed in range(next(known.seeds for known in ARMS if known.name == arm)):
        workdir = out / f"{arm}-{seed}"
        newest = workdir / EVALUATION_FOLDER / SCORES_FILE
        if newest.is_file():
            step = json.loads(newest.read_text(encoding="utf-8"))["step"]
            found.append(read_images(folder_of(workdir, step, use_ema=True)))
    return found


def _write(out: Path, sampled: Path | None = None) -> None:
    """The table of all comparisons whose runs are evaluated, and claim 5's of `sampled`."""
    images = {arm.name: _images(out, arm.name) for arm in ARMS}
    rows = []
    for comparison in COMPARISONS:
        ours, theirs = images[comparison.arm], images[comparison.against]
        if not (ours and theirs):
            continue
        for split in sorted({key.split("/")[0] for key in ours[0]}, reverse=True):
            rows.append((comparison, split, claims.compare(comparison, ours, theirs, split)))
    text = claims.markdown(rows)
    if sampled is not None:
        text += "\n" + _samplers(sampled)
    temporary = out / f".{TABLE_FILE}.tmp"
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(out / TABLE_FILE)


def _samplers(workdir: Path) -> str:
    """Claim 5: PSNR by sampler, and what it costs."""
    lines = ["| steps | guidance | calls of the network | refocus, dB | blend, dB | deblur, dB |"]
    lines.append("|---|---|---|---|---|---|")
    step = checkpoint.existing_step(workdir, None)
    for num_steps, guidance_scale in claims.SAMPLERS:
        label = claims.sampler_label(num_steps, guidance_scale)
        found = read_images(folder_of(workdir, step, use_ema=True, label=label))
        split = next(key.split("/")[0] for key in found)
        cells = [
            str(mean_with_interval(found[f"{split}/{task}"][column]))
            for task, column in (
                ("refocus", claims.MODEL),
                ("refocus", claims.STACKED),
                ("deblur", claims.MODEL),
            )
        ]
        calls = claims.evaluations(num_steps, guidance_scale)
        lines.append(f"| {num_steps} | {guidance_scale:g} | {calls} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
