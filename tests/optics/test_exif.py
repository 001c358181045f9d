"""What EXIF says of the blur, against the thin lens in metres."""

import jax.numpy as jnp
import numpy as np

from bokeh_jax.optics import Exif, Lens

RNG = np.random.default_rng(4)
COUNT = 40


def cameras():
    """EXIF (mm), focus distances and metric disparities of a unit of relative disparity."""
    focal_mm = RNG.uniform(4, 200, COUNT)
    fields = np.stack(
        (focal_mm, focal_mm * RNG.uniform(1, 7, COUNT), RNG.uniform(1, 22, COUNT)), axis=-1
    )
    distance_m = focal_mm / 1e3 * RNG.uniform(2, 100, COUNT)
    return jnp.asarray(fields, jnp.float32), distance_m, RNG.uniform(0.1, 5, COUNT)


def test_the_length_and_exif_give_the_thin_lens_blur():
    fields, distance_m, per_m = cameras()
    exif = Exif.from_fields(fields)
    focal_m, sensor_m = np.asarray(exif.focal_length_m), np.asarray(exif.sensor_width_m)
    np.testing.assert_allclose(sensor_m, 0.036 * fields[:, 0] / fields[:, 1], rtol=1e-6)
    field_m = sensor_m * (distance_m - focal_m) / focal_m
    scale_m = field_m / (per_m * distance_m)
    ours = exif.lens(jnp.full(COUNT, 0.4), jnp.asarray(scale_m, jnp.float32), 640)
    metric = Lens.from_camera(
        focal_length_m=exif.focal_length_m,
        f_number=fields[:, 2],
        focus_distance_m=jnp.asarray(distance_m, jnp.float32),
        sensor_width_m=exif.sensor_width_m,
        width_px=640,
    )
    np.testing.assert_allclose(ours.blur_px, metric.blur_px * per_m, rtol=2e-4)
    np.testing.assert_array_equal(ours.focus_disparity, np.float32(0.4))


def test_metres_where_relative_zero_is_infinitely_far():
    fields, distance_m, _ = cameras()
    exif, focus = Exif.from_fields(fields), RNG.uniform(0.1, 1, COUNT)
    field_m = np.asarray(exif.sensor_width_m) * (distance_m / np.asarray(exif.focal_length_m) - 1)
    # low = 0: the focus is at 1 / s = m δ, so m s = 1 / δ.
    scale_m = jnp.asarray(field_m * focus, jnp.float32)
    found = exif.focus_distance_m(jnp.asarray(focus, jnp.float32), scale_m)
    np.testing.assert_allclose(found, distance_m, rtol=1e-4)
