"""A dataset of the toy source, built once a module, and a copy to do harm to."""

import shutil
from pathlib import Path

import pytest
from toy_build import COUNTS
from toy_source import ToySource

from data_pipeline.builder import build


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("built") / "scenes"
    build(ToySource(), path, counts=COUNTS, num_workers=0)
    return path


@pytest.fixture
def copied(built, tmp_path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "scenes"))
