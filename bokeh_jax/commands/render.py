"""`bokeh-jax render`: the lens blur of a photograph file, or of a rack focus over it."""

import argparse
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from bokeh_jax.commands.animation import check_animation_path, write_animation
from bokeh_jax.commands.photo import disparity_of, output_path, parse_point
from bokeh_jax.errors import InvalidInput
from bokeh_jax.inference.lens_photo import PhotoSettings, largest_radius_px, photograph
from bokeh_jax.inference.photo_file import Photo, read_photo, write_photo
from bokeh_jax.inference.request import check_request
from bokeh_jax.optics import (
    Aperture,
    CatEye,
    Disc,
    KernelImage,
    Lens,
    Polygon,
    Ring,
    Shape,
    squeezed,
)
from bokeh_jax.simulation import disparity_at

# Focus at infinity, in 1/m: farther than any depth that matters to a lens.
_LEAST_FOCUS_DISPARITY = 1e-6


@dataclasses.dataclass(frozen=True)
class _Job:
    """A checked command line: what to photograph, and with which camera."""

    photo: Photo
    disparity: np.ndarray
    lenses: list[Lens]
    settings: PhotoSettings


def render_file(arguments: argparse.Namespace) -> None:
    """Puts a file through the lens blur at its own size, or animates a rack focus.

    Raises:
        InvalidInput: a value of the command line or a file that cannot be used.
    """
    if arguments.animate is None:
        out = output_path(arguments, "rendered")
    else:
        out = arguments.animate
        check_animation_path(out)
    job = _job(arguments)
    max_radius_px = largest_radius_px(job.disparity, job.lenses, job.settings)
    longer_side = max(job.disparity.shape)
    if max_radius_px > max(1.0, longer_side / 2):
        raise InvalidInput(
            f"the largest blur radius is {max_radius_px:g} px; allowed: up to half the longer "
            f"side, {longer_side / 2:g} px"
        )

    def pictures() -> Iterator[np.ndarray]:
        for lens in job.lenses:
            yield photograph(
                job.photo.pixels, job.disparity, lens, job.settings, max_radius_px=max_radius_px
            )

    if arguments.animate is None:
        write_photo(out, dataclasses.replace(job.photo, pixels=next(pictures())))
    else:
        write_animation(out, pictures(), frames_per_second=arguments.fps)
    print(_summary(out, job, max_radius_px))


def _summary(out: Path, job: _Job, max_radius_px: float) -> str:
    first, last = job.lenses[0], job.lenses[-1]
    focus = f"{float(first.focus_disparity):.4g}"
    if len(job.lenses) > 1:
        focus += f" to {float(last.focus_disparity):.4g} in {len(job.lenses)} frames"
    return (
        f"{out}: focus at disparity {focus}, {float(first.blur_px):.4g} px of blur radius per unit "
        f"disparity, at most {max_radius_px:g} px"
    )


def _job(arguments: argparse.Namespace) -> _Job:
    aperture, settings = _aperture(arguments), _settings(arguments)
    metric = _is_metric(arguments)
    focus, focus_to = _focus_points(arguments, metric)
    photo = read_photo(arguments.image)
    disparity = disparity_of(arguments, photo, metric=metric)
    assert disparity is not None  # The parser requires one of the two.
    # The shape, the focus points and the blur; metric disparity has no upper end.
    bounded = np.clip(disparity, 0.0, 1.0)
    for point in (focus, focus_to):
        check_request(photo.pixels, point or (0.5, 0.5), arguments.blur or 0.0, bounded)
    ends = [_disparity_at(disparity, point) for point in (focus, focus_to) if point is not None]
    if arguments.focus_distance_m is not None:
        ends = [1.0 / arguments.focus_distance_m]
    count = 1 if arguments.animate is None else arguments.frames
    lenses = [_lens(arguments, d, disparity.shape[1]) for d in _rack(ends[0], ends[-1], count)]
    settings = dataclasses.replace(settings, aperture=aperture, pivot=focus or (0.5, 0.5))
    return _Job(photo, disparity, lenses, settings)


def _rack(first: float, last: float, count: int) -> list[float]:
    """Focus disparities of a move that starts and ends gently."""
    if count == 1:
        return [first]
    eased = (1 - np.cos(np.pi * np.arange(count) / (count - 1))) / 2
    return (first + (last - first) * eased).tolist()


def _disparity_at(disparity: np.ndarray, point: tuple[float, float]) -> float:
    return float(disparity_at(jnp.asarray(disparity), jnp.asarray([point], jnp.float32))[0])


def _is_metric(arguments: argparse.Namespace) -> bool:
    """Whether a camera is described by its settings; then all of them must be there."""
    settings = {
        "--f-number": arguments.f_number,
        "--focal-length-mm": arguments.focal_length_mm,
        "--sensor-width-mm": arguments.sensor_width_mm,
        "--focus-distance-m": arguments.focus_distance_m,
    }
    given = [flag for flag, value in settings.items() if value is not None]
    if not given:
        if arguments.blur is None:
            raise InvalidInput(
                "--blur is not given; allowed: 0 or more, or --f-number and --focal-length-mm"
            )
        return False
    for flag in ("--f-number", "--focal-length-mm"):
        if flag not in given:
            raise InvalidInput(f"{flag} is not given; allowed with {given[0]}: above 0")
    if arguments.blur is not None:
        raise InvalidInput(f"--blur is {arguments.blur:g}; allowed with {given[0]}: not given")
    for flag in given:
        _require(flag, settings[flag], settings[flag] > 0, "finite and above 0")
    distance = arguments.focus_distance_m
    if distance is not None:
        _require(
            "--focus-distance-m",
            distance,
            distance * 1000 > arguments.focal_length_mm,
            f"beyond the focal length, {arguments.focal_length_mm / 1000:g} m",
        )
    return True


def _focus_points(
    arguments: argparse.Namespace, metric: bool
) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
    by_distance = metric and arguments.focus_distance_m is not None
    if arguments.focus is None and not by_distance:
        raise InvalidInput(
            "--focus is not given; allowed: x,y such as 0.6,0.4, or a camera's --focus-distance-m"
        )
    if arguments.focus is not None and by_distance:
        raise InvalidInput(
            f"--focus is {arguments.focus}; allowed with --focus-distance-m: not given"
        )
    focus = None if arguments.focus is None else parse_point(arguments.focus)
    if (arguments.animate is None) != (arguments.focus_to is None) or (
        arguments.animate is not None and focus is None
    ):
        raise InvalidInput(
            f"--focus-to is {arguments.focus_to}; allowed: a point x,y where --animate and "
            "--focus are given, and only there"
        )
    if arguments.focus_to is None:
        return focus, None
    _require("--frames", arguments.frames, 2 <= arguments.frames <= 1000, "2 to 1000")
    _require("--fps", arguments.fps, 1 <= arguments.fps <= 60, "1 to 60")
    return focus, parse_point(arguments.focus_to, "--focus-to")


def _lens(arguments: argparse.Namespace, focus_disparity: float, width_px: int) -> Lens:
    if arguments.f_number is None:
        return Lens(focus_disparity, arguments.blur * width_px)
    distance_m = 1.0 / max(focus_disparity, _LEAST_FOCUS_DISPARITY)
    if distance_m * 1000 <= arguments.focal_length_mm:
        raise InvalidInput(
            f"the point in focus is {distance_m:g} m away; allowed: beyond the focal length, "
            f"{arguments.focal_length_mm / 1000:g} m"
        )
    sensor_mm = 36.0 if arguments.sensor_width_mm is None else arguments.sensor_width_mm
    return Lens.from_camera(
        focal_length_m=arguments.focal_length_mm / 1000,
        f_number=arguments.f_number,
        focus_distance_m=distance_m,
        sensor_width_m=sensor_mm / 1000,
        width_px=width_px,
    )


def _aperture(arguments: argparse.Namespace) -> Aperture:
    shape = _shape(arguments)
    if arguments.squeeze is not None:
        squeeze = arguments.squeeze
        _require("--squeeze", squeeze, squeeze > 0, "finite and above 0, 1 for none")
        shape = squeezed(shape, squeeze)
    if arguments.cat_eye is None:
        return shape
    _require("--cat-eye", arguments.cat_eye, 0 <= arguments.cat_eye < 1, "from 0 to below 1")
    return CatEye(shape, arguments.cat_eye)


def _shape(arguments: argparse.Namespace) -> Shape:
    blades, rotation, roundness = arguments.blades, arguments.rotation, arguments.roundness
    if blades != 0 and blades < 3:
        raise InvalidInput(f"--blades is {blades}; allowed: 0 (a disc), or 3 or more")
    for flag, value in (("--rotation", rotation), ("--roundness", roundness)):
        if value is not None and blades == 0:
            raise InvalidInput(f"{flag} is {value:g}; allowed only with --blades")
    if arguments.kernel is not None:
        if blades or arguments.ring is not None:
            raise InvalidInput(
                f"--kernel is {arguments.kernel}; allowed only without --blades and --ring"
            )
        return _kernel_image(arguments.kernel)
    if rotation is not None:
        _require("--rotation", rotation, True, "finite, in degrees")
    if roundness is not None:
        _require("--roundness", roundness, 0 <= roundness <= 1, "from 0 to 1")
    shape = Polygon(blades, math.radians(rotation or 0.0), roundness or 0.0) if blades else Disc()
    if arguments.ring is None:
        return shape
    rim, hole = _one_or_two("--ring", arguments.ring, 0.0)
    _require("--ring", arguments.ring, rim >= 0 and 0 <= hole < 1, "RIM from 0, HOLE from 0 to <1")
    return Ring(shape, rim=rim, hole=hole)


def _kernel_image(path: Path) -> KernelImage:
    try:
        # Grey levels are taken as brightness.
        return KernelImage.from_array(read_photo(path).pixels.mean(axis=-1))
    except InvalidInput:
        raise
    except ValueError as error:
        raise InvalidInput(f"--kernel is {path}, but {error}") from None


def _settings(arguments: argparse.Namespace) -> PhotoSettings:
    gain, threshold = 1.0, 0.8
    if arguments.highlights is not None:
        gain, threshold = _one_or_two("--highlights", arguments.highlights, threshold)
        allowed = gain >= 1 and 0 <= threshold < 1
        _require(
            "--highlights", arguments.highlights, allowed, "GAIN from 1, THRESHOLD from 0 to <1"
        )
    tilt = (0.0, 0.0) if arguments.tilt is None else parse_point(arguments.tilt, "--tilt")
    _require("--tilt", arguments.tilt, all(map(math.isfinite, tilt)), "finite numbers x,y")
    width = arguments.in_focus_range
    _require("--in-focus-range", width, width >= 0, "finite and at least 0, in disparity")
    return PhotoSettings(
        highlight_gain=gain,
        highlight_threshold=threshold,
        tilt=tilt,
        in_focus_range=width,
        only=arguments.only or "both",
    )


def _one_or_two(flag: str, text: str, second: float) -> tuple[float, float]:
    """ "2" -> (2.0, second), "2,0.5" -> (2.0, 0.5)."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or not all(map(math.isfinite, numbers)):
        raise InvalidInput(f"{flag} is {text!r}; allowed: one or two finite numbers such as 2,0.5")
    return numbers[0], numbers[1] if len(numbers) == 2 else second


def _require(flag: str, value: object, allowed: bool, text: str) -> None:
    finite = not isinstance(value, float) or math.isfinite(value)
    if not (allowed and finite):
        raise InvalidInput(f"{flag} is {value}; allowed: {text}")
