"""The other side of `bokeh-jax bench train-step`: diffusers' FLUX transformer, trained by torch.

A program of its own, which the bench starts with a Python that has torch and diffusers; it imports
nothing of ours but one file, by its place. The first argument is the setting as JSON. It answers
every line on stdin (`step`, `matrix`, `same FILE`) with one line of JSON on stdout.

Torch is given what makes it fastest: AdamW's fused kernel, memory kept between steps as for ours,
gradients set to None. With bfloat16, products are autocast and parameters stay float32, as in ours.
"""

import json
import os
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# Torch is imported after this: memory must be kept from the start.
runpy.run_path(str(Path(__file__).parents[1] / "memory.py"))["keep_freed_memory"]()

import diffusers  # pyright: ignore[reportMissingImports] # noqa: E402
import torch  # pyright: ignore[reportMissingImports] # noqa: E402

_GRID_COLUMNS = 16
_MATRIX_SIZE = 2048


def make_model(setting: dict[str, Any]) -> Any:
    """The network of a setting."""
    return diffusers.FluxTransformer2DModel(  # pyright: ignore[reportPrivateImportUsage]
        patch_size=1,
        in_channels=setting["channels"],
        num_layers=setting["double"],
        num_single_layers=setting["single"],
        attention_head_dim=setting["hidden"] // setting["heads"],
        num_attention_heads=setting["heads"],
        joint_attention_dim=setting["hidden"],
        pooled_projection_dim=setting["hidden"],
        guidance_embeds=False,
        axes_dims_rope=tuple(setting["rope_axes"]),
    ).to(setting["device"])


def make_inputs(setting: dict[str, Any]) -> dict[str, Any]:
    """Random inputs by the model's names, and `target`."""
    batch, tokens, context = setting["batch"], setting["tokens"], setting["context"]
    index = torch.arange(tokens)
    ids = torch.stack((torch.zeros(tokens), index // _GRID_COLUMNS, index % _GRID_COLUMNS), dim=1)
    inputs = {
        "hidden_states": torch.randn(batch, tokens, setting["channels"]),
        "encoder_hidden_states": torch.randn(batch, context, setting["hidden"]),
        "pooled_projections": torch.randn(batch, setting["hidden"]),
        "timestep": torch.rand(batch),
        "img_ids": ids,
        "txt_ids": torch.zeros(context, 3),
        "target": torch.randn(batch, tokens, setting["channels"]),
    }
    return {name: value.to(setting["device"]) for name, value in inputs.items()}


def forward_loss(setting: dict[str, Any], model: Any, inputs: dict[str, Any]) -> tuple[Any, Any]:
    """(output, mean square of its difference from the target)."""
    dtype = getattr(torch, setting["dtype"])
    named = {name: value for name, value in inputs.items() if name != "target"}
    with torch.autocast(setting["device"], dtype=dtype, enabled=dtype != torch.float32):
        output = model(**named, return_dict=False)[0]
    return output, torch.mean((output.float() - inputs["target"]) ** 2)


def make_step(setting: dict[str, Any], model: Any) -> tuple[Callable[[], float], float]:
    """(the step, operations of its products as torch counts them)."""
    from torch.nn.attention import SDPBackend, sdpa_kernel  # pyright: ignore[reportMissingImports]
    from torch.utils.flop_counter import FlopCounterMode  # pyright: ignore[reportMissingImports]

    matrices = [value for value in model.parameters() if value.ndim > 1]
    vectors = [value for value in model.parameters() if value.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": setting["weight_decay"]},
        {"params": vectors, "weight_decay": 0.0},
    ]
    rate, betas = setting["learning_rate"], tuple(setting["betas"])
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=betas, fused=True)
    inputs = make_inputs(setting)

    def step() -> float:
        loss = forward_loss(setting, model, inputs)[1]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), setting["clip_norm"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    # The counter sees plain products, and nothing of the fused attention that is timed.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        step()
    if setting["compile"]:
        model.compile()
    return step, counter.get_total_flops()


def make_matrix_product(setting: dict[str, Any]) -> Callable[[], float]:
    """Best rate of three products of square matrices, in operations per second."""
    size, options = _MATRIX_SIZE, {"device": setting["device"]}
    dtype = getattr(torch, setting["dtype"])
    first, second = (torch.randn(size, size, **options).to(dtype) for _ in range(2))

    def rate() -> float:
        times = []
        for _ in range(3):
            start = time.perf_counter()
            (first @ second)[0, 0].item()
            times.append(time.perf_counter() - start)
        return 2 * size**3 / min(times)

    return rate


def write_same(setting: dict[str, Any], path: str) -> None:
    """A small network in float32: its weights, inputs, output and gradients, as an .npz file."""
    setting = setting | setting["small"]
    model, inputs = make_model(setting), make_inputs(setting)
    with torch.no_grad():
        for value in model.parameters():
            # No gate is closed and no scale is 1: every weight has its say.
            value.add_(0.1 * torch.randn_like(value))
    output, loss = forward_loss(setting, model, inputs)
    loss.backward()
    arrays = {f"input.{name}": value for name, value in inputs.items()} | {"output": output}
    for name, value in model.named_parameters():
        arrays[f"param.{name}"], arrays[f"grad.{name}"] = value, value.grad
    np.savez(path, **{name: value.detach().cpu().numpy() for name, value in arrays.items()})


def measured(call: Callable[[], float]) -> dict[str, float]:
    """Value of a call, its time and processor time."""
    before, start = os.times(), time.perf_counter()
    value = call()
    seconds, after = time.perf_counter() - start, os.times()
    cpu_seconds = after.user + after.system - before.user - before.system
    return {"value": value, "seconds": seconds, "cpu_seconds": cpu_seconds}


def serve() -> None:
    """Answer until stdin ends."""
    setting = json.loads(sys.argv[1])
    # Warnings and compilers may print: only answers go to the pipe.
    answers, sys.stdout = sys.stdout, sys.stderr
    torch.set_num_threads(setting["threads"])
    torch.manual_seed(0)
    model = make_model(setting)
    num_params = sum(value.numel() for value in model.parameters())
    step, flops = make_step(setting, model)
    calls = {"step": step, "matrix": make_matrix_product(setting)}
    name = f"torch {torch.__version__}, diffusers {diffusers.__version__}"
    name += ", torch.compile" if setting["compile"] else ""
    answer: dict[str, Any] = {"name": name, "num_params": num_params, "step_flops": flops}
    print(json.dumps(answer), file=answers, flush=True)
    for line in sys.stdin:
        asked, _, path = line.strip().partition(" ")
        if asked == "same":
            write_same(setting, path)
            answer = {}
        else:
            answer = measured(calls[asked])
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve()
