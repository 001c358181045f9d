"""Published peaks of accelerators: dense products of bfloat16 summed in float32, per chip.

    v4, v5e, v5p, v6e   https://cloud.google.com/tpu/docs/system-architecture-tpu-vm (a page a kind)
    A100, H100, H200    NVIDIA's datasheets, SXM; the figures without sparsity, half of those with

`link_bytes_per_s` is what one chip sends in all directions together, within a slice (ICI) or a
machine (NVLink): half of the "bidirectional bandwidth per chip" of both makers' pages (v5p: 1200
GB/s; the same page's earlier 4800 Gbit/s, six links of 100 GB/s, is one direction too).
`slice_bytes_per_s` is a chip's share of its host's network, over which slices and machines talk
(v5p: "50 Gbit/s per chip"; v5e: two of 100 Gbit/s for eight chips; v6e: four of 200; GPUs: one port
of 400 Gbit/s each, 200 for A100). `clock_hz` is what the peak says of matrix units whose size is
known (v5p: 8 of 128 x 128, one product a cycle each); the compiler counts in such cycles.
"""

import dataclasses

from bokeh_jax.errors import InvalidInput


@dataclasses.dataclass(frozen=True)
class Chip:
    """Published peaks of one chip.

    Attributes:
        flops_per_s: of products of bfloat16, summed in float32.
        bytes_per_s: of its main memory (HBM).
        memory_bytes: how much of it there is.
        link_bytes_per_s: sent to its neighbours in the slice or machine, all links together.
        slice_bytes_per_s: sent over the network to other slices or machines.
        link_dimensions: of the torus or mesh that the links form; 1 where a switch joins all.
        clock_hz: of the matrix units; 0 where no compiler here counts in cycles.
    """

    flops_per_s: float
    bytes_per_s: float
    memory_bytes: int
    link_bytes_per_s: float
    slice_bytes_per_s: float
    link_dimensions: int = 1
    clock_hz: float = 0.0


CHIPS = {
    "v4": Chip(275e12, 1228e9, 32 << 30, 300e9, 6.25e9, 3, 1.05e9),
    "v5e": Chip(197e12, 819e9, 16 << 30, 200e9, 3.125e9, 2, 1.5e9),
    "v5p": Chip(459e12, 2765e9, 95 << 30, 600e9, 6.25e9, 3, 1.75e9),
    "v6e": Chip(918e12, 1640e9, 32 << 30, 400e9, 12.5e9, 2, 1.75e9),
    "A100": Chip(312e12, 2039e9, 80 << 30, 300e9, 25e9),
    "H100": Chip(989e12, 3350e9, 80 << 30, 450e9, 50e9),
    "H200": Chip(989e12, 4800e9, 141_000_000_000, 450e9, 50e9),
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


def chip_of_topology(topology: str, option: str) -> Chip:
    """The chip that a topology such as v5e:2x2 is made of; `option` of a command line gave it.

    Raises:
        InvalidInput: one whose peaks are not known here.
    """
    kind, _, shape = topology.partition(":")
    if kind not in TPUS or not shape:
        raise InvalidInput(
            f"{option} is {topology!r}; allowed: {', '.join(TPUS)} with a shape, as in v5e:2x2"
        )
    return CHIPS[kind]
