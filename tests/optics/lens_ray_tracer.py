"""Brute-force thin-lens camera for layered scenes: NumPy, one ray after the other, no convolution.

The ray through the lens point u (in units of the aperture's radius) and the pixel x meets the plane
of disparity d at x' = x + K (d(x') - d_f) u, in pixels of the photograph: all rays of a pixel cross
in the focus plane, and swap sides there. Layers are looked up bilinearly, front to back.
"""

import numpy as np


def trace(layers_rgba, planes, focus, blur_px, lens_points, margin_px):
    """Photograph of layers [l, hm, wm, 4] (nearest first); lens_points is [n, 2]."""
    height, width = (size - 2 * margin_px for size in layers_rgba.shape[1:3])
    y, x = np.mgrid[:height, :width].astype(np.float64)
    total = np.zeros((height, width, 3))
    for u, v in lens_points:
        passed = np.ones((height, width, 1))
        for layer, (a, b, c) in zip(layers_rgba.astype(np.float64), planes, strict=True):
            # Solve x' = x + s u, y' = y + s v, s = K (a x' + b y' + c - d_f) for s.
            s = blur_px * (a * x + b * y + c - focus) / (1 - blur_px * (a * u + b * v))
            sample = bilinear(layer, y + s * v + margin_px, x + s * u + margin_px)
            total += passed * sample[..., 3:] * sample[..., :3]
            passed = passed * (1 - sample[..., 3:])
    return total / len(lens_points)


def bilinear(picture, y, x):
    """Values between pixels, edges continued."""
    height, width = picture.shape[:2]
    y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
    top, left = np.minimum(y.astype(int), height - 2), np.minimum(x.astype(int), width - 2)
    fy, fx = (y - top)[..., None], (x - left)[..., None]
    upper = picture[top, left] * (1 - fx) + picture[top, left + 1] * fx
    lower = picture[top + 1, left] * (1 - fx) + picture[top + 1, left + 1] * fx
    return upper * (1 - fy) + lower * fy


def disc_points(rings):
    """Points that share a disc out evenly: ring i of equal width holds 6 i + 3 of them."""
    points = []
    for ring in range(rings):
        count = 6 * ring + 3
        angle = 2 * np.pi * (np.arange(count) + 0.5 * (ring % 2)) / count
        radius = np.sqrt((ring**2 + (ring + 1) ** 2) / 2) / rings
        points += [(radius * np.cos(t), radius * np.sin(t)) for t in angle]
    return np.array(points)


def triangle_points(corners, count):
    """The centres of count**2 congruent parts of a triangle."""
    points = []
    for i in range(count):
        for j in range(count - i):
            points.append(((i + 1 / 3) / count, (j + 1 / 3) / count))
            if i + j < count - 1:
                points.append(((i + 2 / 3) / count, (j + 2 / 3) / count))
    share = np.array(points)
    first, second, third = np.asarray(corners, np.float64)
    return first + share[:, :1] * (second - first) + share[:, 1:] * (third - first)


def decibel(picture, truth):
    """PSNR against a peak of one."""
    return -10 * np.log10(np.mean((np.asarray(picture, np.float64) - truth) ** 2))
