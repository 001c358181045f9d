"""`bokeh-jax render`: its cameras, apertures and animations, and what it refuses."""

import functools
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from bokeh_jax.cli import main
from bokeh_jax.optics import (
    CatEye,
    Disc,
    KernelImage,
    Lens,
    Polygon,
    Ring,
    expand_highlights,
    focus_radius_px,
    linear_to_srgb,
    render_radius,
    squeezed,
    srgb_to_linear,
)

HEIGHT, WIDTH = 24, 36


@pytest.fixture
def folder(tmp_path):
    """A photograph, a relative map (PNG, NPY), a metric one and a kernel picture."""
    random = np.random.default_rng(0)
    light = random.integers(0, 256, (HEIGHT, WIDTH, 1), np.uint8).repeat(3, axis=2)
    light[..., 1] //= 2
    Image.fromarray(light).save(tmp_path / "photo.png")
    near = np.zeros((HEIGHT, WIDTH), np.uint8)
    near[6:18, 20:32] = 255
    Image.fromarray(near).save(tmp_path / "map.png")
    np.save(tmp_path / "metric.npy", np.where(near > 0, 1.0, 0.25).astype(np.float32))
    kernel = random.integers(0, 256, (7, 5), np.uint8)
    Image.fromarray(kernel).save(tmp_path / "kernel.png")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "dark.png")
    return tmp_path


def rendered(folder, *options, disparity="map.png"):
    """The picture that a command line makes, [0, 255]."""
    out = folder / "out.png"
    argv = ["render", str(folder / "photo.png"), f"--disparity={folder / disparity}"]
    assert main([*argv, f"--out={out}", *options]) == 0
    with Image.open(out) as picture:
        return np.asarray(picture, np.float64)


def expected(folder, lens, aperture, *, disparity="map.png", gain=1.0, threshold=0.8, **focus):
    """The same through the library, with radii bounded a little higher than the command's."""
    with Image.open(folder / "photo.png") as image:
        light = srgb_to_linear(jnp.float32(np.asarray(image) / 255))
    if disparity == "map.png":
        with Image.open(folder / disparity) as image:
            values = jnp.float32(np.asarray(image) / 255)
    else:
        values = jnp.asarray(np.load(folder / disparity))
    radius = jax.jit(lambda values: focus_radius_px(values, lens, **focus))(values)
    found = picture(
        light,
        radius,
        aperture=aperture,
        max_radius_px=float(np.ceil(np.abs(radius).max())),
        gain=gain,
        threshold=threshold,
    )
    return 255 * np.clip(np.asarray(found), 0, 1)


@functools.partial(jax.jit, static_argnames=("aperture", "max_radius_px", "gain", "threshold"))
def picture(light, radius, *, gain, threshold, **options):
    light = expand_highlights(light, gain, threshold=threshold)
    return linear_to_srgb(render_radius(light, radius, **options))


def test_options_mean_what_the_library_does(folder):
    lens = Lens(1.0, 0.1 * WIDTH)
    point = ("--focus=0.75,0.5", "--blur=0.1")
    kernel = np.asarray(Image.open(folder / "kernel.png")) / np.float32(255)
    # Together, so that an option without effect shows, and few shapes are compiled.
    opening = ("--blades=5", "--rotation=30", "--roundness=0.3", "--ring=2.5,0.4", "--squeeze=0.5")
    blades = Polygon(5, np.deg2rad(30), 0.3)
    focus = {"tilt": (0.5, -0.5), "pivot": (0.75, 0.5), "in_focus_range": 0.2}
    cases = [
        (("--highlights=6,0.5",), Disc(), {"gain": 6.0, "threshold": 0.5}),
        (
            (*opening, "--cat-eye=0.7", "--tilt=0.5,-0.5", "--in-focus-range=0.2"),
            CatEye(squeezed(Ring(blades, rim=2.5, hole=0.4), 0.5), 0.7),
            focus,
        ),
        ((f"--kernel={folder / 'kernel.png'}",), KernelImage.from_array(kernel), {}),
    ]
    for options, aperture, changes in cases:
        picture = rendered(folder, *point, *options)
        np.testing.assert_allclose(
            picture, expected(folder, lens, aperture, **changes), atol=0.6, err_msg=str(options)
        )


@pytest.mark.parametrize(("only", "sharp"), [("foreground", "far"), ("background", "near")])
def test_one_side_alone_is_blurred(folder, only, sharp):
    # Focus between the two depths: half a unit of disparity on either side.
    np.save(folder / "three.npy", np.float32(np.arange(WIDTH)[None].repeat(HEIGHT, 0) // 12 / 2))
    picture = rendered(
        folder, "--focus=0.5,0.5", "--blur=0.1", f"--only={only}", disparity="three.npy"
    )
    with Image.open(folder / "photo.png") as image:
        before = np.asarray(image, np.float64)
    far, near = np.s_[:, :8], np.s_[:, 28:]
    kept, lost = (far, near) if sharp == "far" else (near, far)
    np.testing.assert_allclose(picture[kept], before[kept], atol=1)
    assert picture[lost].std() < 0.7 * before[lost].std()


def test_a_camera_is_given_by_its_settings(folder):
    camera = ("--f-number=1.2", "--focal-length-mm=85", "--sensor-width-mm=24")
    by_point = rendered(folder, *camera, "--focus=0.75,0.5", disparity="metric.npy")
    lens = Lens.from_camera(
        focal_length_m=0.085,
        f_number=1.2,
        focus_distance_m=1.0,
        sensor_width_m=0.024,
        width_px=WIDTH,
    )
    wanted = expected(folder, lens, Disc(), disparity="metric.npy")
    np.testing.assert_allclose(by_point, wanted, atol=0.6)
    by_distance = rendered(folder, *camera, "--focus-distance-m=1", disparity="metric.npy")
    np.testing.assert_array_equal(by_distance, by_point)
    small = rendered(folder, *camera[:2], "--focus-distance-m=1", disparity="metric.npy")
    # The default is a sensor of 36 mm.
    full = (*camera[:2], "--sensor-width-mm=36", "--focus-distance-m=1")
    np.testing.assert_array_equal(rendered(folder, *full, disparity="metric.npy"), small)
    assert np.abs(small - by_distance).max() > 5


@pytest.mark.parametrize("ending", ["gif", "webp"])
def test_a_rack_focus_goes_from_point_to_point(folder, ending, capsys):
    out = folder / f"rack.{ending}"
    argv = ["render", str(folder / "photo.png"), f"--disparity={folder / 'map.png'}"]
    move = ["--focus=0.75,0.5", "--focus-to=0.1,0.5", "--blur=0.1", "--frames=3", "--fps=10"]
    assert main([*argv, *move, f"--animate={out}"]) == 0
    assert "focus at disparity 1 to 0 in 3 frames" in capsys.readouterr().out
    frames = []
    with Image.open(out) as film:
        assert film.n_frames == 3
        for index in range(3):
            film.seek(index)
            frames.append(np.asarray(film.convert("RGB"), np.float64))
            assert film.info["duration"] == 100
    ends = [expected(folder, Lens(focus, 0.1 * WIDTH), Disc()) for focus in (1.0, 0.5, 0.0)]
    # A GIF has 256 colours, a WebP loses detail: each frame is nearest to its own picture.
    for index, frame in enumerate(frames):
        errors = [np.abs(frame - end).mean() for end in ends]
        assert int(np.argmin(errors)) == index
    assert not list(folder.glob(".*"))


def test_mp4_is_piped_to_ffmpeg_or_refused_without_it(folder, monkeypatch, capsys):
    argv = ["render", str(folder / "photo.png"), f"--disparity={folder / 'map.png'}"]
    move = ["--focus=0.75,0.5", "--focus-to=0.1,0.5", "--blur=0.1", "--frames=2"]
    out = folder / "rack.mp4"
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert main([*argv, *move, f"--animate={out}"]) == 2
    assert "ffmpeg is not found; allowed without it: .gif, .webp" in capsys.readouterr().err
    # A program of that name that keeps what it is given stands in for the real one.
    tools = folder / "tools"
    tools.mkdir()
    program = tools / "ffmpeg"
    program.write_text('#!/bin/sh\nfor last; do :; done\nprintf "%s " "$@" > "$last.said"\n'
                       'cat > "$last"\n')  # fmt: skip
    program.chmod(0o755)
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(tools), prepend=":")
    assert main([*argv, *move, f"--animate={out}"]) == 0
    assert out.stat().st_size == 2 * HEIGHT * WIDTH * 3
    (said,) = folder.glob(".rack.mp4.*.said")
    assert f"-s {WIDTH}x{HEIGHT} -r 12" in said.read_text()
    program.write_text("#!/bin/sh\necho no such codec >&2\nexit 3\n")
    assert main([*argv, *move, f"--animate={folder / 'second.mp4'}"]) == 2
    assert "no such codec" in capsys.readouterr().err
    assert not (folder / "second.mp4").exists()
    assert subprocess.run(["ffmpeg"], capture_output=True, check=False).returncode == 3


CAMERA = ("--f-number=2", "--focal-length-mm=50")
POINT = ("--focus=0.5,0.5", "--blur=0.1")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--focus=0.5,0.5",), "--blur is not given; allowed"),
        (("--blur=0.1",), "--focus is not given; allowed"),
        ((*POINT, "--f-number=2"), "--focal-length-mm is not given; allowed with --f-number"),
        ((*POINT, *CAMERA), "--blur is 0.1; allowed with --f-number: not given"),
        ((*POINT, "--sensor-width-mm=36"), "--f-number is not given"),
        (("--focus=0,0", "--f-number=0", "--focal-length-mm=50"), "--f-number is 0.0; allowed"),
        (("--focus=0,0", "--f-number=2", "--focal-length-mm=nan"), "--focal-length-mm is nan"),
        ((*CAMERA, "--focus-distance-m=0.05"), "--focus-distance-m is 0.05; allowed: beyond"),
        ((*CAMERA, "--focus=0,0", "--focus-distance-m=1"), "--focus is 0,0; allowed with"),
        ((*CAMERA, "--focus-distance-m=1"), "map.png holds uint8; allowed for metric"),
        ((*POINT, "--rotation=3"), "--rotation is 3; allowed only with --blades"),
        ((*POINT, "--roundness=0.5"), "--roundness is 0.5; allowed only with --blades"),
        ((*POINT, "--blades=5", "--roundness=2"), "--roundness is 2.0; allowed: from 0 to 1"),
        ((*POINT, "--blades=5", "--rotation=inf"), "--rotation is inf; allowed: finite"),
        ((*POINT, "--blades=1"), "--blades is 1; allowed"),
        ((*POINT, "--squeeze=0"), "--squeeze is 0.0; allowed"),
        ((*POINT, "--cat-eye=1"), "--cat-eye is 1.0; allowed: from 0 to below 1"),
        ((*POINT, "--ring=-1"), "--ring is -1; allowed: RIM from 0"),
        ((*POINT, "--ring=2,1"), "--ring is 2,1; allowed: RIM from 0"),
        ((*POINT, "--ring=bright"), "--ring is 'bright'; allowed: one or two"),
        ((*POINT, "--ring=1,2,3"), "--ring is '1,2,3'; allowed: one or two"),
        ((*POINT, "--kernel={folder}/none.png"), "none.png not found"),
        ((*POINT, "--kernel={folder}/dark.png"), "dark.png, but a kernel picture must be"),
        ((*POINT, "--kernel={folder}/kernel.png", "--blades=5"), "allowed only without --blades"),
        ((*POINT, "--highlights=0.5"), "--highlights is 0.5; allowed: GAIN from 1"),
        ((*POINT, "--highlights=2,1"), "--highlights is 2,1; allowed: GAIN from 1"),
        ((*POINT, "--tilt=1"), "--tilt is '1'; allowed: x,y"),
        ((*POINT, "--tilt=1,inf"), "--tilt is 1,inf; allowed: finite"),
        ((*POINT, "--in-focus-range=-1"), "--in-focus-range is -1.0; allowed"),
        ((*POINT, "--only=left"), "invalid choice: 'left'"),
        (("--focus=0.5,0.5", "--blur=3"), "the largest blur radius is 108 px; allowed: up to"),
        ((*POINT, "--animate={folder}/a.png", "--focus-to=0,0"), "a.png; allowed endings: .gif"),
        ((*POINT, "--animate={folder}/a.gif"), "--focus-to is None; allowed"),
        ((*POINT, "--focus-to=0,0"), "--focus-to is 0,0; allowed"),
        ((*POINT, "--animate={folder}/a.gif", "--focus-to=0"), "--focus-to is '0'; allowed"),
        ((*POINT, "--animate={folder}/a.gif", "--focus-to=0,2"), "focus is (0.0, 2.0); allowed"),
        (
            (*POINT, "--animate={folder}/a.gif", "--focus-to=0,0", "--frames=1"),
            "--frames is 1; allowed: 2 to 1000",
        ),
        (
            (*POINT, "--animate={folder}/a.gif", "--focus-to=0,0", "--fps=0"),
            "--fps is 0.0; allowed: 1 to 60",
        ),
    ],
)
def test_bad_values_are_one_line_and_leave_nothing(folder, capsys, options, named):
    before = sorted(folder.iterdir())
    argv = ["render", f"{folder}/photo.png", f"--disparity={folder}/map.png"]
    assert main([*argv, *(option.format(folder=folder) for option in options)]) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    assert named in line
    assert sorted(folder.iterdir()) == before
