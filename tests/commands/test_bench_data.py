"""`bokeh-jax bench data`: what it prints for a small dataset, and what it refuses."""

import re

import pytest

from bokeh_jax.cli import main
from bokeh_jax.commands.bench_data import findings
from bokeh_jax.commands.bench_data_times import STAGES, Rate, Stages


def test_it_prints_shapes_stages_rates_and_findings(dataset, capsys):
    command = f"bench data --path {dataset} --batch 4 --workers 0 --threads 1 --seconds 0.3"
    assert main([*command.split(), "--step-ms", "5"]) == 0
    text = capsys.readouterr().out
    assert "split train: batches of 4, 1 threads a process" in text
    assert re.search(r"shape: layered 26x26 px, 3 layers, 100.0 % of the batches", text)
    figures = [float(re.search(rf"^ {stage} +([\d.]+) ", text, re.M)[1]) for stage in STAGES]
    total = float(re.search(r"^ all +([\d.]+) ", text, re.M)[1])
    assert min(figures) > 0
    assert sum(figures) == pytest.approx(total, abs=0.01)
    (row,) = re.findall(r"^ 0 +(\d+) +([\d.]+) +([\d.]+) +([\d.]+) *$", text, re.M)
    assert float(row[0]) * float(row[1]) == pytest.approx(4e3, rel=0.1)
    assert re.search(r"^processor time: [\d.]+ ms/scene; \d+ cores", text, re.M)
    assert re.search(r"^fastest: 0 workers, \d+ scenes/s, [\d.]+ times one thread$", text, re.M)
    assert re.search(r"^bottleneck: ", text, re.M)
    assert re.search(r"^must: keeps ahead of a step of 5 ms", text, re.M)
    # The demand on photographs says nothing of layered scenes.
    assert "photographs of 256" not in text


def _findings(scenes_per_s, waits, step_ms, *, photos=True):
    stages = Stages({"read": 1.0, "decode": 3.0, "copy": 1.0}, 4.0, 100)
    rates = [
        Rate(workers, 1.0, rate, wait)
        for workers, (rate, wait) in enumerate(zip(scenes_per_s, waits, strict=True))
    ]
    return findings(stages, rates, step_ms, photos=photos)


def test_findings_name_the_fastest_the_bottleneck_and_the_demand():
    fastest, bottleneck, must = _findings([150.0, 120.0], [None, None], None)
    assert fastest == "fastest: 0 workers, 150 scenes/s, 0.75 times one thread"
    assert bottleneck == "bottleneck: decode, 60 % of a scene's time in one thread"
    assert must.endswith("holds")
    assert _findings([149.0], [None], None)[-1].endswith("missed")
    assert len(_findings([149.0], [None], None, photos=False)) == 2


def test_with_a_step_time_the_device_may_be_the_bottleneck():
    _, bottleneck, must = _findings([90.0, 300.0], [4.0, 0.25], 150.0, photos=False)
    assert bottleneck == "bottleneck: the device, whose step takes 150 ms"
    assert must.endswith("below 1 % of the time: 0.25 % with 1 workers, holds")
    _, bottleneck, must = _findings([90.0, 300.0], [4.0, 1.0], 150.0, photos=False)
    assert bottleneck.startswith("bottleneck: decode")
    assert must.endswith("1.00 % with 1 workers, missed")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--workers a", "--workers is 'a'; allowed: numbers with commas between, each once"),
        ("--workers 1,1", "--workers is '1,1'"),
        ("--workers 65", "--workers holds 65; allowed: 0 to 64"),
        ("--seconds 0", "--seconds is 0; allowed: above 0, to 3600"),
        ("--seconds nan", "--seconds is nan"),
        ("--step-ms 0", "--step-ms is 0; allowed: above 0, below 1000000"),
        ("--batch 0", "global_batch_size is 0; allowed: 1 to"),
        ("--threads -1", "num_threads is -1; allowed: 0 to"),
        ("--split other", "split is 'other'; allowed in"),
    ],
)
def test_bad_values_are_refused(dataset, capsys, arguments, message):
    assert main(["bench", "data", "--path", str(dataset), *arguments.split()]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_dataset_is_refused(tmp_path, capsys):
    assert main(["bench", "data", "--path", str(tmp_path / "none")]) == 2
    assert "which is not there" in capsys.readouterr().err
