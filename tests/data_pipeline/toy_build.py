"""What tests of builds share: how many candidates, what is in a folder, builds in a process."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from data_pipeline import dataset

COUNTS = {"train": 40, "eval_seen": 3, "eval_heldout": 4}


def files_of(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def shards_of(path: Path, split: str) -> list[Path]:
    return sorted(path.glob(f"*-{split}.array_record-*"))


def script_in(folder: Path, script: str) -> dict:
    values = {"tests": str(Path(__file__).parent), "counts": COUNTS}
    (folder / "script.py").write_text(textwrap.dedent(script).format(**values))
    return {
        "args": [sys.executable, "-W", "error", str(folder / "script.py")],
        "cwd": folder,
        "env": os.environ | {"PYTHONPATH": str(Path(dataset.__file__).parents[1])},
        "text": True,
        "stderr": subprocess.PIPE,
        "stdout": subprocess.PIPE,
    }
