"""What the names of axes mean on a mesh: data, and nothing else.

    data    examples
    fsdp    examples too, and the parameters' width: each device keeps a part of every matrix, and
            gathers one block's whole matrices when that block runs (ZeRO-3, arXiv 1910.02054)
    tensor  heads and MLP channels: each device does a part of every product (arXiv 1909.08053)

The first rule whose mesh axes are still free for an array wins (`flax.linen.logical_to_mesh_axes`).
A matrix's width is cut over `fsdp`, its other side over `tensor`; activations are cut over
examples, heads and MLP channels, and are whole along their width.

An axis for the sequence is left out: it only pays where a device has less than one example, and
refocusing batches have at least one a chip (docs/scaling.md).
"""

from bokeh_jax.mesh_axes import BATCH_AXES, HEADS_AXIS

RULES: tuple[tuple[str, str | tuple[str, ...] | None], ...] = (
    ("batch", BATCH_AXES),
    ("heads", HEADS_AXIS),
    ("mlp", "tensor"),
    ("modulation", "tensor"),
    ("embed", "fsdp"),
    # Of an adapter's two factors the one beside a width is cut along that, the other along this.
    ("rank", "fsdp"),
    # Whole on every device:
    ("layers", None),
    ("features", None),
    ("qkv", None),
    ("head_dim", None),
    ("tokens", None),
    ("width", None),
)
