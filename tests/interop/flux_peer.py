"""Small transformers of diffusers with every weight random, and their inputs, for both sides."""

from collections.abc import Iterator
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import torch
from diffusers import FluxTransformer2DModel

SMALL = {
    "in_channels": 12,
    "out_channels": None,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 4,
    "joint_attention_dim": 24,
    "pooled_projection_dim": 20,
    "guidance_embeds": True,
    "axes_dims_rope": (4, 6, 6),
}


def random_model(seed=0, **changes) -> FluxTransformer2DModel:
    """No gate is closed and no scale is 1: every weight has its say."""
    torch.manual_seed(seed)
    model = FluxTransformer2DModel(**(SMALL | changes)).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn_like(value))
    return model


def grid(stream: int, rows: int, columns: int) -> torch.Tensor:
    index = torch.arange(rows * columns)
    return torch.stack(
        (torch.full((rows * columns,), float(stream)), index // columns, index % columns), dim=1
    )


@dataclass(frozen=True)
class Inputs:
    """What a transformer is given, by diffusers' names; positions have no batch axis there."""

    tensors: dict[str, torch.Tensor]

    @classmethod
    def random(cls, model, grids, num_text=5, batch=2, seed=1) -> "Inputs":
        torch.manual_seed(seed)
        config = model.config
        ids = torch.cat([grid(*which) for which in grids])
        found = {
            "hidden_states": torch.randn(batch, len(ids), config.in_channels),
            "encoder_hidden_states": torch.randn(batch, num_text, config.joint_attention_dim),
            "pooled_projections": torch.randn(batch, config.pooled_projection_dim),
            "timestep": torch.rand(batch),
            "img_ids": ids,
            "txt_ids": torch.zeros(num_text, 3),
        }
        if config.guidance_embeds:
            found["guidance"] = 1.0 + 3.0 * torch.rand(batch)
        return cls(found)

    def call(self, model) -> torch.Tensor:
        return model(**self.tensors, return_dict=False)[0]

    def ours(self) -> tuple[tuple, dict]:
        """Arguments of `DiT`."""
        given = {name: value.detach().numpy() for name, value in self.tensors.items()}
        batch = len(given["timestep"])

        def ids(name: str) -> jnp.ndarray:
            whole = given[name].astype(np.int32)
            return jnp.asarray(np.broadcast_to(whole, (batch, *whole.shape)))

        positional = (
            jnp.asarray(given["hidden_states"]),
            ids("img_ids"),
            jnp.asarray(given["encoder_hidden_states"]),
            ids("txt_ids"),
            jnp.asarray(given["timestep"]),
        )
        named = {"pooled": jnp.asarray(given["pooled_projections"])}
        if "guidance" in given:
            named["guidance"] = jnp.asarray(given["guidance"])
        return positional, named


def tensors_of(model) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in model.state_dict().items()}


def gradients_of(model) -> Iterator[tuple[str, np.ndarray]]:
    for name, value in model.named_parameters():
        yield name, value.grad.numpy()
