"""The linear layer of every part of the transformer, and the low-rank adapters on top of it.

With kernel W, bias v and adapters k (LoRA, Hu et al. 2021, arXiv 2106.09685), each of rank r:

    (1) y = W x + s Σ_k B_k A_k x + v,      s = alpha / r

A starts as PEFT starts it, uniform in ±1 / sqrt(length of x), and B at 0: a fresh adapter changes
nothing. A kernel that holds queries, keys and values, [c, 3, h, d], has an A and a B for each of
them, [c, 3, r] and [3, r, h, d], as PEFT has. A matrix of FLUX that is kept in two parts here,
W [x; z] = W₁ x + W₂ z, has one adapter over both:

    (2) s B [A₁ A₂] [x; z] = s B (A₁ x + A₂ z)

Parameters are `kernel`, `bias` and beside them, by the adapter's name, `lora_a` and `lora_b`; all
start as float32. A frozen kernel may be given in bfloat16. Products are in `dtype`.

Cost, beside a product with a matrix [m, n]: r (m + n) / (m n) of its operations. For FLUX.1-dev at
rank 128 on attention and MLPs these are 6.3 % (double blocks) and 5.9 % (single blocks) of the
products with tokens, and 522,977,280 parameters, 4.4 % of the base's. A frozen base needs no
gradients of its matrices: where training all of it takes 6 operations a weight and token, frozen it
takes 4, its adapters 0.06 · 6. In bfloat16 the base is 23.8 GB, where float32 parameters, moments,
average and gradients are 238 GB; those of the adapters are 10.5 GB.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import spmd
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from bokeh_jax.models.config import LoraConfig

# Of the products with weights, for rematerialisation, which may keep them.
PRODUCT_NAME = "product"
# Axis along which a kernel is several matrices, each with adapters of its own.
_SEPARATE_AXIS = "qkv"
_RANK_AXIS = "rank"
# Cut where parameters are kept, whole where they are used.
_GATHERED_AXES = ("embed", _RANK_AXIS)

# `nn.Module.param`
Param = Callable[..., Any]


class Linear(nn.Module):
    """A linear layer over one or more axes at once, with the names of its kernel's axes.

    flax's `DenseGeneral` starts its kernel flat and only then gives it its axes, so that a name
    would have to stand for axes that are not there yet.

    Attributes:
        features: lengths of the axes going out.
        axes: names of the kernel's axes, those coming in first.
        dtype: of the product; parameters are float32.
        num_in: how many of the input's last axes come in.
        kernel_init: of the kernel as a matrix.
        use_bias: whether a bias is added.
        lora: the adapters; None for none.
    """

    features: tuple[int, ...]
    axes: tuple[str, ...]
    dtype: Any
    num_in: int
    kernel_init: nn.initializers.Initializer
    use_bias: bool
    lora: LoraConfig | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Map the last axes of x: equation (1)."""
        ends = x.shape[x.ndim - self.num_in :]
        shape = (*ends, *self.features)
        axes_in, axes_out = self.axes[: self.num_in], self.axes[self.num_in :]

        def matrix_init(key: Any, shape: tuple[int, ...], dtype: Any) -> Array:
            matrix = (math.prod(ends), math.prod(self.features))
            return self.kernel_init(key, matrix, dtype).reshape(shape)

        kernel: Any = self.param(
            "kernel", nn.with_logical_partitioning(matrix_init, self.axes), shape, jnp.float32
        )
        out = _product(x, _gathered(kernel, self.axes, self.dtype), self.num_in)
        out = _placed(out, axes_out)
        if self.lora is not None:
            count = self.features[:1] if axes_out[0] == _SEPARATE_AXIS else ()
            low = _lora_down(
                self.param,
                "lora_a",
                self.lora,
                x.astype(self.dtype),
                axes_in,
                math.prod(ends),
                count,
            )
            out = out + _lora_up(self.param, self.lora, low, self.features, axes_out)
        out = checkpoint_name(out, PRODUCT_NAME)
        if not self.use_bias:
            return out
        zeros = nn.with_logical_partitioning(nn.initializers.zeros, axes_out)
        bias: Any = self.param("bias", zeros, self.features, jnp.float32)
        return out + bias.astype(self.dtype).reshape(*(1,) * (out.ndim - bias.ndim), *bias.shape)


class JoinedAdapters(nn.Module):
    """Equation (2): adapters over several inputs that meet in one output.

    Attributes:
        lora: the adapters.
        features: length of the axis going out.
        axis: name of that axis.
        dtype: of the products.
    """

    lora: LoraConfig
    features: int
    axis: str
    dtype: Any

    @nn.compact
    def __call__(
        self, inputs: dict[str, tuple[Float[Array, "b n ..."], tuple[str, ...]]]
    ) -> Float[Array, "b n c"]:
        """The adapters' part of the output; A of input `name` is `lora_a_<name>`.

        Args:
            inputs: by name an input and the names of its axes after the tokens'.
        """
        fan_in = sum(math.prod(x.shape[2:]) for x, _ in inputs.values())
        low: dict[str, Array] = {}
        for name, (x, axes) in inputs.items():
            part = _lora_down(
                self.param, f"lora_a_{name}", self.lora, x.astype(self.dtype), axes, fan_in
            )
            low = {k: low[k] + part[k] for k in part} if low else part
        out = _lora_up(self.param, self.lora, low, (self.features,), (self.axis,))
        return checkpoint_name(out, PRODUCT_NAME)


def linear(
    features: int | tuple[int, ...],
    axes: tuple[str, ...],
    *,
    dtype: Any,
    num_in: int = 1,
    kernel_init: nn.initializers.Initializer | None = None,
    use_bias: bool = True,
    lora: LoraConfig | None = None,
    name: str | None = None,
) -> Linear:
    """A linear layer as DiT starts it: Xavier-uniform kernel, zero bias; arguments as `Linear`."""
    return Linear(
        (features,) if isinstance(features, int) else features,
        axes,
        dtype=dtype,
        num_in=num_in,
        kernel_init=nn.initializers.xavier_uniform() if kernel_init is None else kernel_init,
        use_bias=use_bias,
        lora=lora,
        name=name,
    )


def uniform_of_fans(fan_in: int, fan_out: int) -> nn.initializers.Initializer:
    """Xavier-uniform of a matrix of these sizes, for a part of it that is stored apart."""
    return _uniform(math.sqrt(6.0 / (fan_in + fan_out)))


def constrain(x: Float[Array, "..."], *axes: str | None) -> Float[Array, "..."]:
    """`x` with its axes named: nothing changes but where it lies, and only where rules say so."""
    return spmd.with_logical_constraint(x, axes)  # pyright: ignore[reportReturnType]


def _lora_down(
    param: Param,
    name: str,
    lora: LoraConfig,
    x: Float[Array, "..."],
    axes: tuple[str, ...],
    fan_in: int,
    count: tuple[int, ...] = (),
) -> dict[str, Array]:
    """A x of every adapter, in the type of x: `[..., *count, rank]`; `count` matrices apart."""
    ends = x.shape[x.ndim - len(axes) :]
    names = (*axes, *(_SEPARATE_AXIS,) * len(count), _RANK_AXIS)
    init = _uniform(1.0 / math.sqrt(fan_in))
    factors = _by_adapter(param, name, lora, init, (*ends, *count, lora.rank), names)

    def down(factor: Array) -> Array:
        low = _product(x, _gathered(factor, names, x.dtype), len(axes))
        return checkpoint_name(_placed(low, names[len(axes) :]), PRODUCT_NAME)

    return {adapter: down(factor) for adapter, factor in factors.items()}


def _lora_up(
    param: Param,
    lora: LoraConfig,
    low: dict[str, Array],
    features: tuple[int, ...],
    axes: tuple[str, ...],
) -> Float[Array, "..."]:
    """s Σ B (A x) of all adapters: `[..., *features]`."""
    apart = axes[0] == _SEPARATE_AXIS
    names = (axes[0], _RANK_AXIS, *axes[1:]) if apart else (_RANK_AXIS, *axes)
    shape = (features[0], lora.rank, *features[1:]) if apart else (lora.rank, *features)
    factors = _by_adapter(param, "lora_b", lora, nn.initializers.zeros, shape, names)

    def up(adapter: str) -> Array:
        x = low[adapter]
        # The scale joins the smaller side, before it is rounded.
        factor = _gathered(lora.scale * factors[adapter], names, x.dtype)
        out = jnp.einsum("...gr,grhd->...ghd", x, factor) if apart else _product(x, factor, 1)
        return _placed(out, axes)

    total = up(lora.adapters[0])
    for adapter in lora.adapters[1:]:
        total = total + up(adapter)
    return total


def _by_adapter(
    param: Param,
    name: str,
    lora: LoraConfig,
    init: nn.initializers.Initializer,
    shape: tuple[int, ...],
    axes: tuple[str, ...],
) -> dict[str, Array]:
    """One factor's parameters of all adapters, each with a draw of its own."""
    named = nn.with_logical_partitioning(init, axes)

    def draw(key: Any) -> dict[str, Any]:
        keys = jax.random.split(key, len(lora.adapters))
        return {
            adapter: named(keys[index], shape, jnp.float32)
            for index, adapter in enumerate(lora.adapters)
        }

    return param(name, draw)


def _product(x: Float[Array, "..."], kernel: Float[Array, "..."], num_in: int) -> Array:
    """The last `num_in` axes of x against the kernel's first, in the kernel's type."""
    contracted = (tuple(range(x.ndim - num_in, x.ndim)), tuple(range(num_in)))
    return jax.lax.dot_general(x.astype(kernel.dtype), kernel, (contracted, ((), ())))


def _gathered(kernel: Float[Array, "..."], axes: tuple[str, ...], dtype: Any) -> Array:
    """The kernel whole along its width or rank, gathered in the type of the product, by layers.

    Left to the partitioner, matrices cut over two mesh axes got wrong gradients (docs/results.md).
    """
    names = (None if name in _GATHERED_AXES else name for name in axes)
    return constrain(kernel.astype(dtype), *names)


def _placed(out: Float[Array, "..."], axes: tuple[str, ...]) -> Array:
    """An activation whose last axes have these names, whole along its width or rank."""
    names = (None if name in _GATHERED_AXES else name for name in axes)
    return constrain(out, "batch", *("tokens",) * (out.ndim - len(axes) - 1), *names)


def _uniform(limit: float) -> nn.initializers.Initializer:
    def init(key: Any, shape: Any, dtype: Any = jnp.float32, **_: Any) -> Array:
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return init
