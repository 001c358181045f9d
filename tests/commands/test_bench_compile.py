"""`bokeh-jax bench lens-blur --compile-for`: bounds by hand, refusals, and one real compilation."""

import importlib.util
import json
import os

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from bokeh_jax.chips import CHIPS, Chip
from bokeh_jax.cli import main
from bokeh_jax.commands import bench, bench_compile, tpu_compiler
from bokeh_jax.commands.bench_roofline import Program, Row, bound_ms

GB = 10**9


def program(gflop, gb):
    return Program(1.5, gflop * 1e9, gb * 1e9, 3_000_000, 1_000_000, 25_000_000)


@pytest.mark.parametrize(
    ("gflop", "gb", "milliseconds", "binds"),
    [
        # 2 TFLOP/s compute 10 GFLOP in 5 ms; 100 GB/s move 0.3 GB in 3 ms and 0.8 GB in 8 ms.
        (10, 0.3, 5.0, "compute"),
        (10, 0.8, 8.0, "memory"),
    ],
)
def test_the_bound_is_the_longer_of_computing_and_moving(gflop, gb, milliseconds, binds):
    chip = Chip(
        flops_per_s=2e12,
        bytes_per_s=100e9,
        memory_bytes=GB,
        link_bytes_per_s=1e9,
        slice_bytes_per_s=1e8,
    )
    longest_ms, which = bound_ms(program(gflop, gb), chip)
    assert longest_ms == pytest.approx(milliseconds)
    assert which == binds


def test_the_published_peaks():
    assert CHIPS["v5e"] == Chip(197e12, 819e9, 17_179_869_184, 200e9, 3.125e9, 2, 1.5e9)


@pytest.mark.parametrize(("batch", "used"), [(1, 1), (2, 2), (6, 2), (8, 4), (3, 1)])
def test_as_many_devices_as_share_the_batch_evenly(batch, used):
    assert bench_compile.devices_used(["a", "b", "c", "d"], batch) == ["a", "b", "c", "d"][:used]


def refused(capsys, *options):
    """Runs, asserts exit code 2 and one line on stderr, and returns that line."""
    assert main(["bench", "lens-blur", *options]) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    return line


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (
            ("--compile-for=v9:2x2",),
            "--compile-for is 'v9:2x2'; allowed: v4, v5e, v5p, v6e with a shape",
        ),
        (("--compile-for=v5e",), "--compile-for is 'v5e'; allowed: v4, v5e, v5p, v6e with a shape"),
        (("--compile-for=v5e:2x2", "--check"), "--check is given; allowed only without"),
        (("--compile-for=v5e:2x2", "--peer-repeats=2"), "--peer-repeats is given; allowed only"),
        (("--compile-for=v5e:2x2", "--sizes=1"), "--sizes holds 1; allowed"),
        (("--compile-for=v5e:2x2", "--json={folder}"), "{folder}, a folder; allowed: a file"),
    ],
)
def test_bad_values_are_one_line_before_anything_compiles(
    capsys, monkeypatch, tmp_path, options, named
):
    monkeypatch.setattr(bench, "_compile", lambda *_: pytest.fail("it compiled"))
    line = refused(capsys, *(option.format(folder=tmp_path) for option in options))
    assert named.format(folder=tmp_path) in line


def test_without_libtpu_it_says_how_to_get_it(capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    line = refused(capsys, "--compile-for=v5e:2x2")
    assert "needs libtpu, the TPU's compiler, which is not installed" in line
    assert "pip install 'bokeh-jax[tpu-plan]'" in line


@pytest.fixture
def fake_topologies(monkeypatch):
    """libtpu seems to be there; what it is asked for, and what it was told, is kept."""
    asked = []

    def get_topology_desc(platform, topology_name):
        asked.append((platform, topology_name, os.environ["TPU_SKIP_MDS_QUERY"]))
        if topology_name == "v5e:3x5":
            raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: no such layout\nmore of it")
        return type("Topology", (), {"devices": jax.devices()})

    for name in tpu_compiler._NO_CLOUD:
        monkeypatch.setenv(name, tpu_compiler._NO_CLOUD[name])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "libtpu")
    monkeypatch.setattr(tpu_compiler.topologies, "get_topology_desc", get_topology_desc)
    return asked


def test_a_shape_that_libtpu_refuses_is_one_line(capsys, fake_topologies):
    line = refused(capsys, "--compile-for=v5e:3x5")
    assert "--compile-for is 'v5e:3x5', which libtpu refuses (INVALID_ARGUMENT: no such la" in line
    assert fake_topologies == [("tpu", "v5e:3x5", "1")]


def test_table_and_json_agree_with_what_is_compiled(capsys, monkeypatch, tmp_path, fake_topologies):
    # For the CPU, which stands in for the chips, and a product in place of the lens blur.
    monkeypatch.setattr(
        "bokeh_jax.commands.bench_times.render_radius",
        lambda image, radius, *, max_radius_px: image * radius[..., None],
    )
    path = tmp_path / "plan.json"
    options = ["--sizes=32", "--radii=2,3", "--batch=2", f"--json={path}"]
    assert main(["bench", "lens-blur", "--compile-for=v5e:2x2", *options]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    found = json.loads(path.read_text())
    assert {key: found[key] for key in ("topology", "devices", "batch", "dtype")} == {
        "topology": "v5e:2x2",
        "devices": 1,
        "batch": 2,
        "dtype": "float32",
    }
    assert [row["radius_px"] for row in found["rows"]] == [2, 3]
    pixels = 2 * 32 * 32
    for row in found["rows"]:
        assert row["forward"]["argument_bytes"] == 4 * pixels * (3 + 1)
        assert row["forward"]["output_bytes"] == 4 * pixels * 3
        assert row["forward"]["flops"] == 3 * pixels
        assert row["forward_backward"]["flops"] > 2 * row["forward"]["flops"]
        for what in ("forward", "forward_backward"):
            own = row[what]
            assert own["bound_ms"] == pytest.approx(1e3 * own["bytes_accessed"] / 819e9)
            moved_mb = (own["argument_bytes"] + own["output_bytes"]) / 1e6
            figures = [own["compile_s"], own["flops"] / 1e9, own["bytes_accessed"] / 1e6, moved_mb]
            cells = [f"{x:.{n}f}" for x, n in zip(figures, (1, 2, 0, 2), strict=True)]
            cells += [f"{own['temp_bytes'] / 1e6:.1f}", f"{own['bound_ms']:.2f}", own["binds"]]
            start = [what.replace("_", "+"), "32", f"{row['radius_px']:g}"]
            assert [*start, *cells] in lines


def test_what_is_compiled_is_not_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(
        "bokeh_jax.commands.bench_times.render_radius", lambda image, radius, **_: image + 1
    )
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    compilation_cache.reset_cache()
    try:
        bench_compile.compile_row(
            16, 1.0, devices=jax.devices(), batch=1, dtype="float32", backward=False
        )
        assert not list(tmp_path.iterdir())
        # As before it: others are kept again.
        jax.jit(lambda x: x + 17)(np.float32(1)).block_until_ready()
        assert list(tmp_path.iterdir())
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
        compilation_cache.reset_cache()


def test_forward_alone_compiles_nothing_else(capsys, monkeypatch, tmp_path):
    asked = []

    def compile_row(size_px, radius_px, **options):
        asked.append((size_px, radius_px, options["backward"], options["dtype"]))
        return Row(size_px, radius_px, program(1, 1), None)

    monkeypatch.setattr(tpu_compiler, "topology_devices", lambda topology, option: [topology])
    monkeypatch.setattr(bench_compile, "compile_row", compile_row)
    options = ["--sizes=64,32", "--radii=2", "--no-backward", "--dtype=bfloat16"]
    assert main(["bench", "lens-blur", "--compile-for=v5e:2x2", *options]) == 0
    assert asked == [(64, 2, False, "bfloat16"), (32, 2, False, "bfloat16")]
    assert "forward+backward" not in capsys.readouterr().out


@pytest.mark.long
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed: pip install 'bokeh-jax[tpu-plan]'",
)
def test_the_lens_blur_compiles_for_a_tpu():
    devices = tpu_compiler.topology_devices("v5e:2x2", "--compile-for")
    assert len(devices) == 4
    assert {device.platform for device in devices} == {"tpu"}
    row = bench_compile.compile_row(
        64, 5.0, devices=devices, batch=4, dtype="float32", backward=True
    )
    for compiled in (row.forward, row.forward_backward):
        # One image of four a device, padded to tiles of 128 columns at the most.
        exact = 64 * 64 * 4 * (3 + 1)
        assert exact <= compiled.argument_bytes <= 2 * exact
        assert 0 < compiled.temp_bytes < CHIPS["v5e"].memory_bytes
        # Every layer of every slab is drawn: thousands of operations a pixel.
        assert compiled.flops > 64 * 64 * 1000
    assert row.forward_backward.flops > 1.5 * row.forward.flops
    np.testing.assert_array_less(row.forward.temp_bytes, row.forward_backward.temp_bytes + 1)
