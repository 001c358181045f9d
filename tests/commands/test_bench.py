"""`bokeh-jax bench lens-blur`: its peer, its figures and demands, and what it refuses."""

import json
import subprocess
import sys
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from bokeh_jax.cli import main
from bokeh_jax.commands import bench, bench_times
from bokeh_jax.commands.bench_report import Cost, Report, Row, musts
from bokeh_jax.commands.scatter_peer import scatter_blur

HEIGHT, WIDTH = 9, 11


def scattered(image, signed_radius_px):
    """The peer's formula, pair by pair, in float64."""
    light, weights = np.zeros(image.shape), np.zeros(image.shape[:2])
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    for source in np.ndindex(*signed_radius_px.shape):
        radius_px = abs(float(signed_radius_px[source]))
        dy, dx = y - source[0], x - source[1]
        weight = (0.5 + 0.5 * np.tanh(4 * (radius_px - np.hypot(dy, dx)))) / (radius_px**2 + 0.2)
        weight *= np.maximum(abs(dy), abs(dx)) <= np.ceil(radius_px)
        light += weight[..., None] * image[source]
        weights += weight
    return light / weights[..., None]


@pytest.fixture
def photo():
    """An image and signed radii, with wide and closed discs on the edges and in the middle."""
    random = np.random.default_rng(0)
    image = random.random((HEIGHT, WIDTH, 3), np.float32)
    radii_px = random.uniform(-3.4, 3.4, (HEIGHT, WIDTH)).astype(np.float32)
    radii_px[[0, 4, -1], [0, 5, -1]] = 0, 0, 3.4
    return image, radii_px


def test_the_peer_is_its_formula(photo):
    image, radii_px = photo
    np.testing.assert_allclose(scatter_blur(image, radii_px), scattered(image, radii_px), rtol=1e-4)
    flat = np.full_like(image, 0.3)
    np.testing.assert_allclose(scatter_blur(flat, radii_px), flat, rtol=1e-5)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_thread_of_the_peer_adds_its_rows(photo, threads, monkeypatch):
    # Sums for any number of threads: numba runs them on the cores that there are.
    monkeypatch.setattr("bokeh_jax.commands.scatter_peer.num_threads", lambda: threads)
    np.testing.assert_allclose(scatter_blur(*photo), scattered(*photo), rtol=1e-4)


def test_the_scene_has_every_radius():
    image, radii_px = bench_times.scene(48, 6.5, batch=2)
    assert image.shape == (2, 48, 48, 3)
    assert image.dtype == radii_px.dtype == np.float32
    assert image.min() == 0
    assert image.max() == 1
    assert not np.array_equal(image[0], image[1])
    # Neighbours are alike, as in photographs and not in white noise, where nothing correlates.
    neighbours = np.corrcoef(image[:, 1:].ravel(), image[:, :-1].ravel())
    assert neighbours[0, 1] > 0.6
    for plane in radii_px:
        assert np.abs([plane.min(), plane.max()]).tolist() == [6.5, 6.5]
        # Not a pixel of radius is missing, nor is a step in the surface.
        assert np.diff(np.sort(plane.ravel())).max() < 0.5
        assert np.abs(np.diff(plane, axis=0)).max() < 1
        assert np.abs(np.diff(plane, axis=1)).max() < 1


@pytest.mark.parametrize("size_px", [16, 32, 64])
def test_the_widest_blur_allowed_has_every_depth(size_px):
    _, radii_px = bench_times.scene(size_px, size_px / 2, batch=1)
    assert len(np.unique(np.rint(radii_px))) == size_px + 1


@pytest.mark.parametrize(
    ("options", "radii_px", "parts"),
    [
        (("--radii=2,3", "--no-backward"), (2, 3), ("forward", "peer")),
        (("--radii=2",), (2,), ("forward", "forward_backward", "peer")),
        (("--radii=2", "--no-backward", "--no-peer"), (2,), ("forward",)),
    ],
)
def test_table_and_json_agree(capsys, monkeypatch, tmp_path, options, radii_px, parts):
    if "forward_backward" in parts:
        # The lens blur's own gradient takes as long to compile as all other tests here together.
        monkeypatch.setattr(bench_times, "render_radius", stand_in)
    path = tmp_path / "bench.json"
    fixed = ("--sizes=32", "--repeats=1", f"--json={path}")
    assert main(["bench", "lens-blur", *fixed, *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [file.name for file in tmp_path.iterdir()] == ["bench.json"]
    found = json.loads(path.read_text())
    bandwidth = found["copy_bytes_per_s"]
    assert any(line.startswith(f"copy: {bandwidth / 1e9:.2f} GB/s") for line in lines)
    assert any(line.startswith("peer: ") for line in lines) == ("peer" in parts)
    assert [row["radius_px"] for row in found["rows"]] == list(radii_px)
    labels = {
        "forward": "forward",
        "forward_backward": "forward+backward",
        "peer": "peer forward",
    }
    for row in found["rows"]:
        assert row["depths_occupied"] == row["depths"] == 2 * row["radius_px"] + 1
        assert [name for name in labels if row[name] is not None] == list(parts)
        for name in parts:
            cost = row[name]
            assert 0 < cost["least_ms"] == cost["median_ms"]
            assert cost["images_per_s"] == pytest.approx(1e3 / cost["median_ms"])
            assert cost["copy_ms"] == pytest.approx(1e3 * cost["least_bytes"] / bandwidth)
            assert cost["times_limit"] == pytest.approx(cost["median_ms"] / cost["copy_ms"])
            depths = f"{row['depths']}/{row['depths']}"
            figures = [f"{cost[key]:.2f}" for key in ("median_ms", "least_ms", "images_per_s")]
            start = [*labels[name].split(), "32", f"{row['radius_px']:g}", depths, *figures]
            assert any(line.split()[: len(start)] == start for line in lines)
        check_ratio(row, "peer_over_forward", "peer", 0, "peer/forward", lines)
        check_ratio(row, "backward_over_forward", "forward_backward", 1, "backward/forward", lines)


def test_options_reach_the_measurement_and_figures_the_file(capsys, monkeypatch, tmp_path):
    asked = []

    def measure_row(size_px, radius_px, *, peer, **options):
        asked.append((size_px, radius_px, peer, options))
        return row_of(size_px, radius_px, 4.0, both_ms=10.0, peer_ms=50.0)

    monkeypatch.setattr(bench_times, "measure_row", measure_row)
    monkeypatch.setattr(bench_times, "copy_bytes_per_s", lambda mib, repeats: 1e9 * repeats)
    path = tmp_path / "bench.json"
    options = ["--repeats=7", "--peer-repeats=3", "--batch=2", "--dtype=bfloat16"]
    argv = ["--sizes=512,64", "--radii=20,32", f"--json={path}", "--check"]
    assert main(["bench", "lens-blur", *argv, *options]) == 0
    passed = {"repeats": 7, "peer_repeats": 3, "batch": 2, "dtype": "bfloat16", "backward": True}
    places = [(512, 20), (512, 32), (64, 20), (64, 32)]
    assert asked == [(*place, scatter_blur, passed) for place in places]
    said = capsys.readouterr()
    assert "must: 512 px, r <= 20 px: peer / forward at least 10: 12.50, holds" in said.out
    assert said.err == ""
    found = json.loads(path.read_text())
    assert {key: found[key] for key in ("repeats", "peer_repeats", "batch", "dtype")} == {
        key: passed[key] for key in ("repeats", "peer_repeats", "batch", "dtype")
    }
    assert found["copy_bytes_per_s"] == 7e9
    assert found["rows"][0]["forward"]["images_per_s"] == 500
    assert [(must["measured"], must["holds"]) for must in found["musts"]] == [
        (12.5, True),
        (1.5, True),
    ]


def test_a_bench_that_stops_leaves_no_file(monkeypatch, tmp_path):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "_measure", stopped)
    with pytest.raises(KeyboardInterrupt):
        main(["bench", "lens-blur", "--no-peer", f"--json={tmp_path / 'bench.json'}"])
    assert not list(tmp_path.iterdir())


def check_ratio(row, key, part, forwards, label, lines):
    """A ratio to the forward pass, without so many forward passes, in JSON and table."""
    if row[part] is None:
        assert row[key] is None
        assert not any(label in line for line in lines if not line.startswith("must: "))
        return
    wanted = row[part]["median_ms"] / row["forward"]["median_ms"] - forwards
    assert row[key] == pytest.approx(wanted)
    assert any(line.endswith(f"{label} {wanted:.2f}") for line in map(str.rstrip, lines))


def stand_in(image, signed_radius_px, *, max_radius_px):
    """Compiles at once, unlike the lens blur; its result is as wide as the lens blur's."""
    return image.astype(jnp.float32) * signed_radius_px[..., None] / max_radius_px


@pytest.mark.parametrize(("dtype", "num_bytes"), [("float32", 4), ("bfloat16", 2)])
def test_least_bytes_are_input_and_output(monkeypatch, dtype, num_bytes):
    monkeypatch.setattr(bench_times, "render_radius", stand_in)
    seen = []

    def peer(image, signed_radius_px):
        seen.append((image.shape, image.dtype, signed_radius_px.dtype))
        return image

    row = bench_times.measure_row(
        16, 2.0, batch=3, dtype=dtype, repeats=1, backward=True, peer=peer, peer_repeats=1
    )
    pixels = 3 * 16 * 16
    read_bytes = pixels * (3 * num_bytes + 4)
    assert row.forward.least_bytes == read_bytes + pixels * 3 * 4
    assert row.forward_backward.least_bytes == 2 * read_bytes + 4
    assert row.peer.least_bytes == pixels * 4 * (3 + 1 + 3)
    # A corner to compile with, then every image.
    corner, *frames = seen
    assert corner == ((4, 4, 3), np.float32, np.float32)
    assert frames == [((16, 16, 3), np.float32, np.float32)] * 3


def test_the_gradients_are_those_of_a_mean_of_squares(monkeypatch):
    monkeypatch.setattr(bench_times, "render_radius", stand_in)
    image, radii_px = (jnp.asarray(array) for array in bench_times.scene(16, 2.0, batch=1))
    calls, _ = bench_times._ours(image, radii_px, 2.0, backward=True)
    loss, gradients = calls["forward_backward"]()
    scaled = radii_px[..., None] / 2.0
    np.testing.assert_allclose(loss, np.mean(np.square(calls["forward"]())), rtol=1e-5)
    np.testing.assert_allclose(gradients[0], 2 * image * scaled**2 / image.size, rtol=1e-5)


def test_ours_and_the_peer_take_turns(monkeypatch):
    said = []

    def ours(*_, backward):
        names = ("forward", "forward_backward")[: 1 + backward]
        calls = {name: lambda name=name: said.append(name) for name in names}
        return calls, dict.fromkeys(names, 1)

    monkeypatch.setattr(bench_times, "_ours", ours)
    bench_times.measure_row(
        16,
        2.0,
        batch=1,
        dtype="float32",
        repeats=3,
        backward=True,
        peer=lambda image, _: said.append("peer") or image,
        peer_repeats=2,
    )
    both = ["forward", "forward_backward"]
    assert said == ["peer", *both, "peer", *both, "peer", *both]


def test_copies_and_calls_are_timed(monkeypatch):
    # Every look at the clock is a quarter of a second, then half a second, later.
    ticks = iter(np.cumsum([0.25, 0.5] * 3))
    monkeypatch.setattr(bench_times, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    assert bench_times.copy_bytes_per_s(1, repeats=2) == 2 * 2**20 / 0.5
    assert bench_times._timed_ms(lambda: None) == 500
    assert Cost.of([3.0, 1.0, 2.0, 7.0, 4.0], 5) == Cost(3.0, 1.0, 5)


def row_of(size_px, radius_px, forward_ms, *, both_ms=None, peer_ms=None):
    def cost(time_ms):
        return None if time_ms is None else Cost(time_ms, time_ms, 1)

    return Row(size_px, float(radius_px), 1, 1, cost(forward_ms), cost(both_ms), cost(peer_ms))


@pytest.mark.parametrize(
    ("rows", "measured"),
    [
        ([row_of(512, 20, 2.0, peer_ms=20.0)], [(10.0, True)]),
        ([row_of(512, 20, 2.0, peer_ms=19.0)], [(9.5, False)]),
        ([row_of(512, 60, 2.0, peer_ms=80.0)], [(40.0, True)]),
        ([row_of(512, 60, 2.0, peer_ms=79.0)], [(39.5, False)]),
        ([row_of(256, 20, 2.0, peer_ms=1.0), row_of(512, 5, 2.0, peer_ms=1.0)], []),
        ([row_of(256, 20, 2.0), row_of(512, 60, 2.0)], []),
        ([row_of(256, 20, 2.0), row_of(256, 60, 5.0)], [(2.5, True)]),
        ([row_of(256, 60, 6.0), row_of(256, 20, 2.0)], [(3.0, False)]),
        ([row_of(64, 2, 2.0, both_ms=8.0), row_of(64, 3, 2.0, both_ms=6.0)], [(3.0, True)]),
        ([row_of(64, 2, 2.0, both_ms=4.0), row_of(64, 3, 2.0, both_ms=9.0)], [(3.5, False)]),
    ],
)
def test_demands_are_told_from_the_rows_that_can(rows, measured):
    assert [(must.measured, must.holds) for must in musts(rows)] == measured


@pytest.mark.parametrize(
    ("both_ms", "code", "line"),
    [
        (7.0, 0, "must: every row: backward / forward at most 3: 2.50, holds"),
        (9.0, 1, "must: every row: backward / forward at most 3: 3.50, missed"),
        (None, 1, "must: none of the demands can be told from these sizes and radii"),
    ],
)
def test_check_turns_a_missed_demand_into_the_exit_code(capsys, monkeypatch, both_ms, code, line):
    rows = [row_of(32, 2, 2.0, both_ms=both_ms)]
    report = Report("cpu", "float32", 1, 1, 1, None, 1, 1e9, rows)
    monkeypatch.setattr(bench, "_measure", lambda *_: report)
    options = ["bench", "lens-blur", "--sizes=32", "--radii=2", "--no-peer"]
    assert main([*options, "--check"]) == code
    assert line in capsys.readouterr().out
    assert main(options) == 0


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
        (("--sizes=big",), "--sizes is 'big'; allowed: whole numbers of pixels"),
        (("--sizes=512.5",), "--sizes is '512.5'; allowed: whole numbers"),
        (("--sizes=",), "--sizes is ''; allowed"),
        (("--sizes=64,64",), "--sizes is '64,64'; allowed: whole numbers of pixels with commas"),
        (("--sizes=15",), "--sizes holds 15; allowed: 16 to 16384 px"),
        (("--sizes=16385",), "--sizes holds 16385; allowed: 16 to"),
        (("--radii=nan",), "--radii is 'nan'; allowed: numbers"),
        (("--radii=5;6",), "--radii is '5;6'; allowed: numbers"),
        (("--radii=2,2.0",), "each once"),
        (("--radii=0.5",), "--radii holds 0.5; allowed: 1 to half the least of --sizes, 256 px"),
        (("--sizes=512,64", "--radii=33"), "--radii holds 33; allowed: 1 to half"),
        (("--repeats=0",), "--repeats is 0; allowed: 1 to 1000"),
        (("--repeats=1001",), "--repeats is 1001; allowed: 1 to 1000"),
        (("--peer-repeats=0",), "--peer-repeats is 0; allowed: 1 to 1000"),
        (("--batch=-1",), "--batch is -1; allowed: 1 to 1000"),
        (("--no-peer", "--peer-repeats=2"), "--peer-repeats is 2; allowed only without --no-peer"),
        (("--dtype=float16",), "invalid choice: 'float16'"),
        (("--json={folder}/none/a.json",), "none/a.json, which cannot be written (No such file"),
        (("--json={folder}",), "{folder}, a folder; allowed: a file"),
    ],
)
def test_bad_values_are_one_line_before_anything_runs(
    capsys, monkeypatch, tmp_path, options, named
):
    monkeypatch.setattr(bench, "_measure", lambda *_: pytest.fail("it ran"))
    line = refused(capsys, *(option.format(folder=tmp_path) for option in options))
    assert named.format(folder=tmp_path) in line
    assert not list(tmp_path.iterdir())


def test_without_numba_the_peer_is_refused(capsys, monkeypatch):
    monkeypatch.setattr(bench, "_measure", lambda *_: pytest.fail("it ran"))
    monkeypatch.delitem(sys.modules, "bokeh_jax.commands.scatter_peer")
    monkeypatch.setitem(sys.modules, "numba", None)
    line = refused(capsys)
    assert "numba is needed for the peer" in line
    assert "pip install 'bokeh-jax[bench]', or use --no-peer" in line


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from bokeh_jax.cli import build_parser; build_parser();"
        "print(sorted({'jax', 'numba', 'numpy', 'rich'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "[]\n"
