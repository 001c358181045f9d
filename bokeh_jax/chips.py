"""Published peaks of accelerators: dense products of bfloat16 summed in float32, per chip.

    v4, v5e, v5p, v6e   https://cloud.google.com/tpu/docs/system-architecture-tpu-vm (a page a kind)
    A100, H100, H200    NVIDIA's datasheets, SXM; the figures without sparsity, half of those with

`link_bytes_per_s` is what one chip sends in all directions together, within a slice (ICI) or a
machine (NVLink); the TPU pages give it as bits per second of both directions.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """Published peaks of one chip.

    Attributes:
        flops_per_s: of products of bfloat16, summed in float32.
        bytes_per_s: of its main memory (HBM).
        memory_bytes: how much of it there is.
        link_bytes_per_s: sent to its neighbours in the slice or machine, all links together.
    """

    flops_per_s: float
    bytes_per_s: float
    memory_bytes: int
    link_bytes_per_s: float


CHIPS = {
    "v4": Chip(275e12, 1228e9, 32 << 30, 150e9),
    "v5e": Chip(197e12, 819e9, 16 << 30, 100e9),
    "v5p": Chip(459e12, 2765e9, 95 << 30, 300e9),
    "v6e": Chip(918e12, 1640e9, 32 << 30, 224e9),
    "A100": Chip(312e12, 2039e9, 80 << 30, 300e9),
    "H100": Chip(989e12, 3350e9, 80 << 30, 450e9),
    "H200": Chip(989e12, 4800e9, 141_000_000_000, 450e9),
}

TPUS = tuple(name for name in CHIPS if name.startswith("v"))

# How JAX's `device_kind` begins, longer names first.
_KINDS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v6": "v6e",
    "NVIDIA A100": "A100",
    "NVIDIA H100": "H100",
    "NVIDIA H200": "H200",
}


def chip_named(device_kind: str) -> Chip | None:
    """The chip behind a JAX device's `device_kind`; None for one that is not in the table."""
    for prefix, name in _KINDS.items():
        if device_kind.startswith(prefix):
            return CHIPS[name]
    return None
