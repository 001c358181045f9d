"""The focus distance transformer: where a photographer focuses, among the depths of a scene.

An image, its relative disparity and what EXIF says of the camera go in; the disparity in focus and
the length σ of `optics.exif` come out. After the focus distance transformer of Shrivastava et al.
2025 (arXiv 2510.06215), which is a fine-tuned saliency network; this one starts fresh.

    x = W [patch of image, detail, disparity; place],        n tokens, and two read-outs r_f, r_s
    r_f, r_s, x = single blocks([r_f, r_s, x]; c),            c = mlp(EXIF), in the place of time
    (1) a = softmax(q(r_f) · k(x) / √h)                       over the n tokens of the scene
    (2) δ = Σ aₙ dₙ,   u² = Σ aₙ (dₙ − δ)²
    (3) σ = σ₀ 2^(o tanh(w · r_s))

dₙ is the median disparity of patch n, so that it is the disparity of something that is there, and δ
lies between the scene's nearest and farthest. `a` says what is taken to be in focus, u how sure
the answer is; `likeliest` reads one depth off an answer of several modes.

Detail is the length of the luminance's gradient: what is out of focus has little. Read-outs stand
in the middle of the grid, so that rotations (`rope`) tell how far a token is from there. W_q and w
start at 0: a fresh network looks everywhere alike and answers σ₀.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Key

from bokeh_jax.errors import InvalidInput
from bokeh_jax.models.blocks import BlockInputs, SingleBlock
from bokeh_jax.models.config import ComputeDtype, DiTConfig, check_at_least, check_choice
from bokeh_jax.models.dit import Embedder
from bokeh_jax.models.linear import linear
from bokeh_jax.models.patches import patchify
from bokeh_jax.models.rope import grid_ids, rope_rotation
from bokeh_jax.optics import Exif

FOCUS = "focus"
Sees = Literal["scene", "photograph"]
SEES: tuple[Sees, ...] = ("scene", "photograph")

_NUM_READOUTS = 2
# Colours, detail and disparity of a pixel; (x, y, x² + y²) of a token.
_CHANNELS, _PLACE = 5, 3
# The stream of read-outs in the positions' first axis.
_READOUT_STREAM = 1
_LUMINANCE = (0.2126, 0.7152, 0.0722)


@dataclass(frozen=True)
class FocusConfig:
    """A focus distance transformer.

    Attributes:
        sees: 'scene', the image that is in focus everywhere: the answer is where a photographer
            would focus; 'photograph', the photograph itself: where this one was focused.
        patch_size: edge of a patch, pixels.
        hidden_dim, num_heads, mlp_ratio, rope_axes_dim, compute_dtype: as of `DiTConfig`.
        num_blocks: single blocks.
        scale_start_m: σ₀, of a fresh network.
        scale_octaves: o: σ lies within so many octaves of σ₀.

    Raises:
        InvalidInput: naming the field, its value and what is allowed.
    """

    sees: Sees = "scene"
    patch_size: int = 4
    hidden_dim: int = 128
    num_heads: int = 4
    mlp_ratio: float = 4.0
    num_blocks: int = 3
    rope_axes_dim: tuple[int, int, int] = (4, 14, 14)
    compute_dtype: ComputeDtype = "float32"
    scale_start_m: float = 0.2
    scale_octaves: float = 3.0

    def __post_init__(self) -> None:
        check_choice("sees", self.sees, SEES)
        check_at_least("patch_size", self.patch_size, 1)
        check_at_least("num_blocks", self.num_blocks, 1)
        for name in ("scale_start_m", "scale_octaves"):
            if not 0 < getattr(self, name) <= 100:
                raise InvalidInput(f"{name} is {getattr(self, name)}; allowed: above 0, up to 100")
        self.dit_config()  # Its fields are checked there.

    def dit_config(self) -> DiTConfig:
        """What the blocks are made from."""
        return DiTConfig(
            in_channels=_CHANNELS * self.patch_size**2 + _PLACE,
            out_channels=1,
            hidden_dim=self.hidden_dim,
            num_heads=self.num_heads,
            mlp_ratio=self.mlp_ratio,
            num_double_blocks=0,
            num_single_blocks=self.num_blocks,
            rope_axes_dim=self.rope_axes_dim,
            compute_dtype=self.compute_dtype,
        )


class FocusAnswer(NamedTuple):
    """What the transformer says of a batch.

    Attributes:
        focus_disparity: δ, relative.
        uncertainty: u, standard deviation of the disparity under the attention.
        scale_m: σ.
        attention: a, of sum 1.
        token_disparity: dₙ.
    """

    focus_disparity: Float[Array, " b"]
    uncertainty: Float[Array, " b"]
    scale_m: Float[Array, " b"]
    attention: Float[Array, "b n"]
    token_disparity: Float[Array, "b n"]


class FocusTransformer(nn.Module):
    """Parameters: `patches`, `readouts`, `camera`, `block_0` and on, `query`, `key`, `scale`."""

    config: FocusConfig

    @nn.compact
    def __call__(
        self, image: Float[Array, "b h w 3"], disparity: Float[Array, "b h w"], exif: Exif
    ) -> FocusAnswer:
        """The answer, float32.

        Args:
            image: what the config says that it sees, sRGB-encoded in [-1, 1].
            disparity: relative, [0, 1].
            exif: of the camera.

        Raises:
            InvalidInput: where height or width are no multiples of the patch size.
        """
        config, dit = self.config, self.config.dit_config()
        batch, height_px, width_px = disparity.shape
        rows, columns = height_px // config.patch_size, width_px // config.patch_size
        tokens = self._embedded(image, disparity, rows, columns)
        readouts: Any = self.param(
            "readouts", nn.initializers.normal(0.02), (_NUM_READOUTS, config.hidden_dim)
        )
        first = jnp.broadcast_to(readouts[None], (batch, *readouts.shape)).astype(tokens.dtype)
        middle = jnp.asarray([[[_READOUT_STREAM, rows // 2, columns // 2]]], jnp.int32)
        ids = jnp.concatenate(
            (
                jnp.broadcast_to(middle, (batch, _NUM_READOUTS, 3)),
                grid_ids(0, rows, columns, batch),
            ),
            axis=1,
        )
        inputs = BlockInputs(
            time_embedding=Embedder(dit, name="camera")(camera_features(exif)),
            rotation=rope_rotation(ids, dit.rope_axes_dim, dit.rope_theta),
        )
        sequence = jnp.concatenate((first, tokens), axis=1)
        for index in range(config.num_blocks):
            sequence, _ = SingleBlock(dit, name=f"block_{index}")(sequence, inputs)
        return self._answer(sequence, token_disparity(disparity, config.patch_size))

    def _embedded(
        self, image: Array, disparity: Array, rows: int, columns: int
    ) -> Float[Array, "b n c"]:
        config = self.config
        planes = (image, detail(image)[..., None], disparity[..., None])
        patches = patchify(jnp.concatenate(planes, axis=-1), config.patch_size)
        y, x = np.meshgrid(
            np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij", copy=False
        )
        place = np.stack((x, y, x**2 + y**2), axis=-1).reshape(1, rows * columns, _PLACE)
        place = jnp.broadcast_to(jnp.asarray(place, patches.dtype), (*patches.shape[:2], _PLACE))
        layer = linear(
            config.hidden_dim, ("features", "embed"), dtype=config.compute_dtype, name="patches"
        )
        return layer(jnp.concatenate((patches, place), axis=-1))

    def _answer(self, sequence: Float[Array, "b t c"], depths: Float[Array, "b n"]) -> FocusAnswer:
        """Equations (1) to (3)."""
        config = self.config
        normed = nn.LayerNorm(use_scale=False, use_bias=False, name="norm")(
            sequence.astype(jnp.float32)
        )

        def layer(features: int, name: str, init: nn.initializers.Initializer | None = None):
            return linear(
                features, ("embed", "width"), dtype=jnp.float32, kernel_init=init, name=name
            )

        zeros = nn.initializers.zeros
        query = layer(config.hidden_dim, "query", zeros)(normed[:, :1])
        key = layer(config.hidden_dim, "key")(normed[:, _NUM_READOUTS:])
        logits = jnp.einsum("bqc,bnc->bn", query, key) / np.sqrt(config.hidden_dim, dtype="f4")
        attention = jax.nn.softmax(logits, axis=-1)
        focus = jnp.sum(attention * depths, axis=-1)
        variance = jnp.sum(attention * jnp.square(depths - focus[:, None]), axis=-1)
        octaves = config.scale_octaves * jnp.tanh(layer(1, "scale", zeros)(normed[:, 1:2]))
        return FocusAnswer(
            focus_disparity=focus,
            uncertainty=jnp.sqrt(variance + 1e-12),
            scale_m=config.scale_start_m * jnp.exp2(octaves[:, 0, 0]),
            attention=attention,
            token_disparity=depths,
        )


def camera_features(exif: Exif) -> Float[Array, "b 3"]:
    """Numbers of unit order in octaves: the opening's radius, the angle of view, the f-number."""
    return jnp.stack(
        (
            0.5 * jnp.log2(exif.opening_radius_m / 0.01),
            jnp.log2(exif.focal_length_m / exif.sensor_width_m),
            0.5 * jnp.log2(exif.f_number / 4.0),
        ),
        axis=-1,
    )


def detail(image: Float[Array, "b h w 3"]) -> Float[Array, "b h w"]:
    """Length of the gradient of the luminance, from each pixel to the right and below."""
    luminance = image @ jnp.asarray(_LUMINANCE, image.dtype)
    across = jnp.diff(luminance, axis=2, append=luminance[:, :, -1:])
    down = jnp.diff(luminance, axis=1, append=luminance[:, -1:])
    # Differentiable where an image is flat.
    return jnp.sqrt(jnp.square(across) + jnp.square(down) + 1e-6)


def token_disparity(disparity: Float[Array, "b h w"], patch_size: int) -> Float[Array, "b n"]:
    """The median of every patch; of an even number of pixels the lower of the middle two."""
    pixels = jnp.sort(patchify(disparity[..., None], patch_size), axis=-1)
    return pixels[..., (patch_size**2 - 1) // 2]


def likeliest(answer: FocusAnswer, width: float = 0.03) -> Float[Array, " b"]:
    """The token's disparity around which most attention lies, seen through a Gaussian.

    Where the answer is "this or that", the mean is a depth at which nothing may be.

    Args:
        answer: of the transformer.
        width: standard deviation of the Gaussian, relative disparity.
    """
    depths = answer.token_disparity
    apart = (depths[:, :, None] - depths[:, None, :]) / width
    density = jnp.sum(jnp.exp(-0.5 * jnp.square(apart)) * answer.attention[:, None, :], axis=-1)
    best = jnp.argmax(density, axis=-1)
    return jnp.take_along_axis(depths, best[:, None], axis=-1)[:, 0]


def apply(
    config: FocusConfig,
    params: dict[str, Any],
    image: Float[Array, "b h w 3"],
    disparity: Float[Array, "b h w"],
    exif: Exif,
) -> FocusAnswer:
    """`FocusTransformer.__call__` as a pure function of the parameters."""
    answer = FocusTransformer(config).apply({"params": params}, image, disparity, exif)
    assert isinstance(answer, FocusAnswer)
    return answer


def init_params(config: FocusConfig, key: Key[Array, ""]) -> dict[str, Any]:
    """Start values as a plain tree of float32 arrays; may be traced."""
    return dict(nn.unbox(_init_boxed(config, key)))


def parameter_axes(config: FocusConfig) -> dict[str, Any]:
    """A tree like the parameters' with a `PartitionSpec` of axis names in each one's place."""
    boxed = jax.eval_shape(lambda key: _init_boxed(config, key), jax.random.key(0))
    return dict(nn.get_partition_spec(boxed))


def _init_boxed(config: FocusConfig, key: Key[Array, ""]) -> Any:
    """Start values with the names of their axes; no parameter depends on the image's size."""
    side = config.patch_size
    image, disparity = jnp.zeros((1, side, side, 3)), jnp.zeros((1, side, side))
    exif = Exif(jnp.ones((1,)), jnp.ones((1,)), jnp.ones((1,)))
    return FocusTransformer(config).init(key, image, disparity, exif)["params"]
