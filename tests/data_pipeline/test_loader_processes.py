"""One, two and four hosts, each a process of its own, with any number of workers and threads.

Every host is started anew, some in the middle of the run, as after a restart.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import host_digests
import pytest
from toy_source import ToySource

from data_pipeline.builder import build
from data_pipeline.mixture import MixtureSource, Part

NUM_STEPS = 9


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """Both kinds in two shapes each, from two sources."""
    path = tmp_path_factory.mktemp("hosts") / "scenes"
    parts = (
        Part(ToySource(), counts={"train": 26}, name="one"),
        Part(ToySource(seed=1), counts={"train": 14}, name="two", weight=3.0),
    )
    build(MixtureSource(parts), path, num_workers=0, max_damaged_share=0.5)
    return path


@pytest.fixture(scope="module")
def expected(dataset) -> list[list[str]]:
    """One host without workers or threads."""
    return host_digests.digest_steps(dataset, NUM_STEPS, {}, {})


def _run(dataset: Path, hosts: Sequence[dict]) -> list[list[list[str]]]:
    """Digests of all hosts, which run at the same time."""
    script = str(Path(host_digests.__file__))
    processes = [
        subprocess.Popen(
            [sys.executable, script, json.dumps({"path": str(dataset), **host})],
            stdout=subprocess.PIPE,
            text=True,
        )
        for host in hosts
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes)
    return [json.loads(output) for output in outputs]


def _host(index: int, count: int, start_step: int, **fields: int) -> dict:
    # JSON knows no ranges.
    rows = list(range(index * 8 // count, (index + 1) * 8 // count))
    where = {"rows": rows, "start_step": start_step}
    return {"num_steps": NUM_STEPS - start_step, "where": where, "fields": fields}


def _assert_parts(found: list[list[list[str]]], hosts: list[dict], expected: list[list[str]]):
    """Every host has its part of every global batch from its start on."""
    for steps, host in zip(found, hosts, strict=True):
        where = host["where"]
        whole = expected[where["start_step"] :]
        assert steps == [[batch[row] for row in where["rows"]] for batch in whole]


def test_batches_differ(expected):
    """So that equal digests below say something."""
    rows = [row for batch in expected for row in batch]
    assert len(set(rows)) > 20
    assert len({tuple(batch) for batch in expected}) == NUM_STEPS


def test_two_hosts_with_workers_one_restarted(dataset, expected):
    hosts = [
        _host(0, 2, 0, num_workers=1, num_threads=1),
        _host(1, 2, 3, num_workers=2, num_threads=2),
    ]
    _assert_parts(_run(dataset, hosts), hosts, expected)


@pytest.mark.long  # `make test`: two hosts above.
def test_four_hosts_with_other_threads_each_one_restarted(dataset, expected):
    hosts = [_host(index, 4, 2 * (index == 3), num_threads=index) for index in range(4)]
    _assert_parts(_run(dataset, hosts), hosts, expected)
