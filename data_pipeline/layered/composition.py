"""How a layered scene is put together: what stands in it, on which planes.

A scene is l RGBA layers, nearest first; the last is opaque and fills the frame. Each layer's
texture is known everywhere, so what a defocused edge uncovers is known too, which no photograph
with a depth map can offer: the lens blur of such a scene is exact (layered compositing of Porter
and Duff, Compositing Digital Images, SIGGRAPH 1984, one layer's circle of confusion at a time).

Disparity of layer i is the plane a_i·x + b_i·y + c_i. Each layer owns an interval of [0, 1], the
intervals are `min_gap` apart, and a plane stays in its interval over the whole frame [0, w]·[0, h];
a linear function attains its extremes at the corners, so |a|·w/2 + |b|·h/2 may be at most half the
interval. The order of the layers is therefore the same at every pixel.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Float32, UInt8

from data_pipeline.layered.canvas import Canvas
from data_pipeline.layered.lights import draw_lights
from data_pipeline.layered.parts import Part, Role
from data_pipeline.layered.silhouettes import Outline, disc, draw_silhouette
from data_pipeline.layered.style import PLAIN, SceneStyle
from data_pipeline.layered.textures import Photographs, crop_texture
from data_pipeline.layered.translucent import TRANSLUCENT

MIN_LAYERS = 2
# Of the frame, a layer must show at least this much, lights this much, and the far layer the last.
MIN_VISIBLE = 0.02
MIN_LIGHTS_VISIBLE = 2e-4
MIN_FAR_VISIBLE = 0.15
NUM_TRIES = 12
# float32 planes evaluated in float32 stay within [0, 1] with this much to spare.
RANGE_MARGIN = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Composition:
    """A scene and what was drawn in it.

    Attributes:
        layers: sRGB-encoded, straight alpha, nearest first, the last opaque.
        planes: (a, b, c) of each layer over all stored pixels.
        gains: linear light of a layer is this times what its pixels say.
        parts: what each layer is.
        photographs: the name of the photograph on each layer; None where there is none.
        margin_px: stored pixels beyond what is to be seen, on each side.
    """

    layers: UInt8[np.ndarray, "l h w 4"]
    planes: Float32[np.ndarray, "l 3"]
    gains: Float32[np.ndarray, " l"]
    parts: tuple[Part, ...]
    photographs: tuple[str | None, ...]
    margin_px: int = 0

    def seen(self) -> Float[np.ndarray, "l h w"]:
        """Share of each pixel's light that comes from each layer, without the margin."""
        return visible_shares(inner(self.layers[..., 3], self.margin_px))


def compose(
    seed: tuple[int, ...],
    frame: tuple[int, int],
    photographs: Photographs,
    *,
    max_layers: int = 5,
    min_gap: float = 0.06,
    style: SceneStyle = PLAIN,
    margin_px: int = 0,
) -> Composition:
    """Put one scene together; a pure function of its arguments.

    Args:
        seed: the whole of the scene's randomness.
        frame: (height, width) of what is to be seen, pixels.
        photographs: by name, uint8 [_, _, 3].
        max_layers: the most layers l.
        min_gap: disparity between neighbouring layers at least.
        style: silhouettes, and how often what is hard occurs.
        margin_px: stored pixels beyond the frame, on each side.
    """
    rng = np.random.default_rng(seed)
    # What only some styles draw has its own stream: plain scenes stay the same.
    extra = np.random.default_rng([*seed, 1])
    height, width = (side + 2 * margin_px for side in frame)
    wanted = int(rng.integers(MIN_LAYERS, max_layers + 1))
    roles = _roles(extra, wanted - 1, max_layers - 2, style)
    drawn = _draw(rng, extra, roles, Canvas(height, width), photographs, style, margin_px)
    everywhere = np.full((height, width), 255, np.uint8)
    drawn.append((Part(role="backdrop", kind="full", alpha=everywhere, words="a backdrop"), None))
    bare = sum(part.rgb is None for part, _ in drawn)
    names = iter(_choose_photographs(rng, sorted(photographs), bare))
    named = [(part, next(names) if part.rgb is None else name) for part, name in drawn]
    layers = [_layer(rng, part, name, photographs) for part, name in named]
    return Composition(
        layers=np.stack(layers),
        planes=_planes(rng, len(layers), (height, width), min_gap),
        gains=np.array([part.gain for part, _ in named], np.float32),
        parts=tuple(part for part, _ in named),
        photographs=tuple(name for _, name in named),
        margin_px=margin_px,
    )


def visible_shares(alpha: UInt8[np.ndarray, "l h w"]) -> Float[np.ndarray, "l h w"]:
    """Share of each pixel's light that comes from each layer, nearest first."""
    opacity = alpha / 255
    passed = np.cumprod(1 - opacity, axis=0)
    return opacity * np.concatenate([np.ones_like(opacity[:1]), passed[:-1]])


def inner(planes: UInt8[np.ndarray, "*l h w"], margin_px: int) -> UInt8[np.ndarray, "*l h2 w2"]:
    """Cut off the margin on each side."""
    height, width = planes.shape[-2:]
    return planes[..., margin_px : height - margin_px, margin_px : width - margin_px]


def _roles(rng: np.random.Generator, things: int, room: int, style: SceneStyle) -> list[Role]:
    """Draw what stands before the backdrop, nearest first; `room` is for all but one thing."""
    extras: list[Role] = []
    if rng.random() < style.lights_rate and len(extras) < room:
        extras.append("lights")
    if rng.random() < style.transparency_rate and len(extras) < room:
        extras.append("translucent")
    roles: list[Role] = ["thing"] * min(things, room + 1 - len(extras))
    for extra in extras:
        # Lights are mostly behind all things, as those of a town are.
        behind = extra == "lights" and rng.random() < 0.7
        place = len(roles) if behind else int(rng.integers(len(roles) + 1))
        roles.insert(place, extra)
    return roles


def _draw(
    rng: np.random.Generator,
    extra: np.random.Generator,
    roles: list[Role],
    canvas: Canvas,
    photographs: Photographs,
    style: SceneStyle,
    margin_px: int,
) -> list[tuple[Part, str | None]]:
    """Draw the parts, nearest first, each in part visible past those before it.

    A part for which no visible place is found is left out. A scene without any thing gets a disc.
    """
    placed: list[tuple[Part, str | None]] = []
    transmitted = np.ones((canvas.height_px - 2 * margin_px, canvas.width_px - 2 * margin_px))
    for role in roles:
        least = MIN_LIGHTS_VISIBLE if role == "lights" else MIN_VISIBLE
        for _ in range(NUM_TRIES):
            part, name = _draw_part(rng, extra, role, canvas, photographs, style)
            opacity = inner(part.alpha, margin_px) / 255
            visible = (transmitted * opacity).mean()
            if visible >= least and transmitted.mean() - visible >= MIN_FAR_VISIBLE:
                placed.append((part, name))
                transmitted = transmitted * (1 - opacity)
                break
    if any(part.role == "thing" for part, _ in placed):
        return placed
    return [(_thing(disc(canvas, 0.25)), None)]


def _draw_part(
    rng: np.random.Generator,
    extra: np.random.Generator,
    role: Role,
    canvas: Canvas,
    photographs: Photographs,
    style: SceneStyle,
) -> tuple[Part, str | None]:
    """Draw one part; return it and the name of the photograph that is on it already."""
    if role == "lights":
        return draw_lights(extra, canvas), None
    if role == "translucent":
        kinds = sorted(TRANSLUCENT)
        return TRANSLUCENT[kinds[extra.integers(len(kinds))]](extra, canvas, photographs)
    if extra.random() < style.hair_rate:
        return _thing(draw_silhouette(extra, "hair", canvas)), None
    kinds = style.kinds()
    return _thing(draw_silhouette(rng, kinds[rng.integers(len(kinds))], canvas)), None


def _thing(outline: Outline) -> Part:
    return Part(role="thing", kind=outline.kind, alpha=outline.alpha, words=outline.words)


def _layer(
    rng: np.random.Generator, part: Part, name: str | None, photographs: Photographs
) -> UInt8[np.ndarray, "h w 4"]:
    rgb = part.rgb
    if rgb is None:
        assert name is not None
        height, width = part.alpha.shape
        rgb = crop_texture(rng, photographs[name], (height, width))
    return np.dstack([rgb, part.alpha])


def _choose_photographs(rng: np.random.Generator, names: list[str], count: int) -> list[str]:
    """Draw names without repetition until all are used, so that neighbours differ."""
    rounds = -(-count // len(names))
    drawn = np.concatenate([rng.permutation(len(names)) for _ in range(rounds)])[:count]
    return [names[i] for i in drawn]


def _planes(
    rng: np.random.Generator, count: int, frame: tuple[int, int], min_gap: float
) -> Float32[np.ndarray, "l 3"]:
    """Draw `count` planes, nearest first, whose order holds over the whole frame."""
    height, width = frame
    free = 1 - 2 * RANGE_MARGIN - (count - 1) * (min_gap + RANGE_MARGIN)
    widths = free * rng.dirichlet(np.full(count, 2.0))
    starts = RANGE_MARGIN + np.cumsum(widths + min_gap + RANGE_MARGIN) - min_gap - RANGE_MARGIN
    starts = starts - widths
    # Most layers face the camera or lean a little; a few lean over all of their interval.
    reach = widths / 2 * rng.random(count) ** 2
    middles = starts + reach + rng.random(count) * (widths - 2 * reach)
    share = rng.random(count)
    signs = rng.choice([-1.0, 1.0], (2, count))
    a = signs[0] * share * reach / (width / 2)
    b = signs[1] * (1 - share) * reach / (height / 2)
    c = middles - a * (width / 2) - b * (height / 2)
    return np.stack([a, b, c], axis=-1)[::-1].astype(np.float32)
