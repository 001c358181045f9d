"""MP4 files from `bokeh-jax render`, through the ffmpeg that imageio-ffmpeg carries, and back."""

import os
import re
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from bokeh_jax.cli import main
from bokeh_jax.commands.animation import write_animation

# Of 255: half the range that yuv420p codes colours in, and what x264 leaves at its usual quality.
CODEC_ERROR = 4.0


@pytest.fixture
def ffmpeg(tmp_path, monkeypatch):
    """A real ffmpeg, which is the only one to be found."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "ffmpeg").symlink_to(imageio_ffmpeg.get_ffmpeg_exe())
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)
    return tools / "ffmpeg"


def described(ffmpeg, path):
    """What ffmpeg says of a file's video."""
    said = subprocess.run([ffmpeg, "-hide_banner", "-i", path], capture_output=True, check=False)
    (line,) = (line for line in said.stderr.decode().splitlines() if "Video:" in line)
    return line


def decoded(ffmpeg, path, height, width):
    """Frames of a file as a player shows them, [0, 255]."""
    command = [ffmpeg, "-loglevel", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3).astype(np.float64)


def smooth(height, width, shift):
    """A smooth colourful picture, different for every shift; halved colour hardly shows on it."""
    y, x = np.mgrid[:height, :width] / np.float32(32)
    waves = [np.sin(x + shift), np.cos(y - shift), np.sin(x + y + 2 * shift)]
    return (0.5 + 0.4 * np.stack(waves, axis=-1)).astype(np.float32)


@pytest.mark.parametrize(("height", "width"), [(48, 64), (47, 64), (48, 63), (47, 63), (33, 31)])
def test_frames_come_back_in_size_order_and_colour(ffmpeg, tmp_path, height, width):
    path = tmp_path / "film.mp4"
    frames = [smooth(height, width, shift) for shift in range(5)]
    write_animation(path, iter(frames), frames_per_second=10.0)
    even = (height + height % 2, width + width % 2)
    line = described(ffmpeg, path)
    assert "h264" in line
    assert "yuv420p(tv, bt709/bt709/iec61966-2-1" in line
    assert f"{even[1]}x{even[0]}" in line
    assert re.search(r"\b10 fps", line)
    found = decoded(ffmpeg, path, *even)
    assert found.shape == (5, *even, 3)
    for frame, back in zip(frames, found, strict=True):
        errors = np.abs(back[:height, :width] - 255 * frame)
        assert errors.mean() < CODEC_ERROR, errors.mean((0, 1))
        # What fills odd sides up continues the picture instead of ending it in black.
        filled = np.pad(255 * frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        assert np.abs(back - filled)[-1].mean() < 2 * CODEC_ERROR
        assert np.abs(back - filled)[:, -1].mean() < 2 * CODEC_ERROR


@pytest.mark.parametrize("color", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1), (0.2, 0.2, 0.2)])
def test_plain_colours_stay(ffmpeg, tmp_path, color):
    path = tmp_path / "plain.mp4"
    frame = np.broadcast_to(np.float32(color), (32, 32, 3))
    write_animation(path, iter([frame, frame]), frames_per_second=12.0)
    for back in decoded(ffmpeg, path, 32, 32):
        np.testing.assert_allclose(back.mean((0, 1)), 255 * np.float32(color), atol=CODEC_ERROR)


def test_a_rack_focus_is_a_film_of_the_pictures(ffmpeg, tmp_path):
    # As large as the other films of the tests, which compile the same blur.
    height, width = 24, 36
    Image.fromarray(np.uint8(255 * smooth(height, width, 0.5))).save(tmp_path / "photo.png")
    near = np.zeros((height, width), np.uint8)
    near[6:18, 20:32] = 255
    Image.fromarray(near).save(tmp_path / "map.png")
    argv = ["render", str(tmp_path / "photo.png"), f"--disparity={tmp_path / 'map.png'}"]
    move = ["--focus=0.6,0.5", "--focus-to=0.05,0.5", "--blur=0.1", "--frames=3", "--fps=24"]
    assert main([*argv, *move, f"--animate={tmp_path / 'rack.mp4'}"]) == 0
    found = decoded(ffmpeg, tmp_path / "rack.mp4", height, width)
    assert len(found) == 3
    assert "24 fps" in described(ffmpeg, tmp_path / "rack.mp4")
    for index, focus in [(0, "0.6,0.5"), (2, "0.05,0.5")]:
        out = tmp_path / "still.png"
        assert main([*argv, f"--focus={focus}", "--blur=0.1", f"--out={out}"]) == 0
        with Image.open(out) as picture:
            still = np.asarray(picture, np.float64)
        assert np.abs(found[index] - still).mean() < CODEC_ERROR
    assert not list(tmp_path.glob(".*"))
