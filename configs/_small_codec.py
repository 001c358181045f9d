"""The small autoencoder's shape, for what trains it and what trains on it; not an experiment."""

from typing import Any

CODEC: dict[str, Any] = dict(
    kind="autoencoder",
    autoencoder=dict(
        block_out_channels=(32, 64, 64),
        latent_channels=8,
        compute_dtype="float32",
    ),
)
