"""Parts of a report's page: pictures, sliders and charts inside the file, nothing from outside."""

import base64
import dataclasses
import html
import io
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from PIL import Image

Point = tuple[int | float, int | float]


@dataclasses.dataclass(frozen=True)
class Picture:
    """A captioned picture.

    Attributes:
        caption: what it shows.
        image: sRGB [0, 1], [h, w, 3].
        pixels: enlarge without smoothing.
    """

    caption: str
    image: Float[np.ndarray, "h w 3"]
    pixels: bool = False


def _data_uri(image: Float[np.ndarray, "h w 3"]) -> str:
    buffer = io.BytesIO()
    levels = np.clip(np.rint(image * 255.0), 0, 255).astype(np.uint8)
    Image.fromarray(levels).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def figure(picture: Picture) -> str:
    """HTML of a picture with its caption."""
    kind = ' class="pixels"' if picture.pixels else ""
    caption = html.escape(picture.caption)
    return (
        f'<figure><img{kind} src="{_data_uri(picture.image)}" alt="{caption}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def line_chart(
    title: str, series: Mapping[str, Sequence[Point]], *, size: tuple[int, int] = (460, 240)
) -> str:
    """A chart as inline SVG: name -> points (x, y)."""
    width, height = size
    left, bottom, top, right = 58, 34, 30, 12
    points = [point for line in series.values() for point in line]
    if not points:
        return f"<p>{html.escape(title)}: no values yet.</p>"
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x0, x1, y0, y1 = min(xs), max(xs), min(ys), max(ys)
    x1, y1 = (x1 if x1 > x0 else x0 + 1), (y1 if y1 > y0 else y0 + 1e-9)

    def place(x: int | float, y: int | float) -> str:
        across = left + (x - x0) / (x1 - x0) * (width - left - right)
        down = height - bottom - (y - y0) / (y1 - y0) * (height - top - bottom)
        return f"{across:.1f},{down:.1f}"

    parts = [f'<svg width="{width}" height="{height}" font-family="sans-serif" font-size="11">']
    parts.append(f'<text x="{left}" y="16" font-size="13">{html.escape(title)}</text>')
    for fraction in (0.0, 0.5, 1.0):
        x, y = x0 + fraction * (x1 - x0), y0 + fraction * (y1 - y0)
        down = float(place(x0, y).split(",")[1])
        across = float(place(x, y0).split(",")[0])
        parts.append(f'<path d="M{left},{down}H{width - right}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{down + 4}" text-anchor="end">{y:.3g}</text>')
        anchor = "end" if fraction == 1.0 else "middle"
        parts.append(f'<text x="{across}" y="{height - 14}" text-anchor="{anchor}">{x:g}</text>')
    colors = ("#0b62a4", "#c44e00", "#2b8a3e", "#7a3db8")
    for index, (name, line) in enumerate(series.items()):
        path = " ".join(place(x, y) for x, y in line)
        color = colors[index % len(colors)]
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.6"/>')
        place_text = f'x="{width - right}" y="{top + 13 * index}" text-anchor="end"'
        parts.append(f'<text {place_text} fill="{color}">{html.escape(name)}</text>')
    return "".join(parts) + "</svg>"


def slider(before: Picture, after: Picture) -> str:
    """Two pictures of one size on each other; a handle moves the border between them.

    Raises:
        ValueError: they are of different sizes.
    """
    if before.image.shape != after.image.shape:
        raise ValueError(
            f"pictures of a slider have shapes {before.image.shape} and {after.image.shape}; "
            "allowed: one shape"
        )
    kind = " pixels" if before.pixels else ""
    height, width = before.image.shape[:2]
    images = "".join(
        f'<img class="{name}{kind}" src="{_data_uri(picture.image)}" '
        f'alt="{html.escape(picture.caption)}">'
        for name, picture in (("before", before), ("after", after))
    )
    moves = "this.parentNode.style.setProperty('--at',this.value+'%')"
    # Small pictures are shown at 20 rem at least; the handle is the page's only script.
    return (
        f'<figure class="slider" style="width:min(100%,{max(width, 320)}px);'
        f'aspect-ratio:{width}/{height}">{images}<input type="range" value="50" '
        f'aria-label="border" oninput="{moves}">'
        f"<figcaption>{html.escape(before.caption)} | {html.escape(after.caption)}</figcaption>"
        "</figure>"
    )
