"""What exported folders compute, in a process that has no JAX: `python torch_side.py JOB.json`.

A job lists folders with inputs and where the outputs go, and command lines of their refocus.py.
"""

import contextlib
import io
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import torch


def refuse(name):
    try:
        __import__(name)
    except ImportError:
        return
    sys.exit(f"{name} can be imported here")


def image(array):
    return torch.from_numpy(np.moveaxis(array, -1, 1).copy())


def conditions_of(modeling, inputs, *, camera, depth, text):
    pieces = {"reference": image(inputs["reference"])}
    if camera:
        pieces |= {name: torch.from_numpy(inputs[name]) for name in ("focus_point", "blur")}
    if depth:
        maps = ("focus_disparity", "target_defocus", "reference_defocus")
        known = {name: torch.from_numpy(inputs[name]) for name in maps}
        pieces["depth"] = modeling.Depth(guess=image(inputs["guess"]), **known)
        pieces["reference_camera_given"] = True
    if text and "text" in inputs:
        pieces |= {name: torch.from_numpy(inputs[name]) for name in ("text", "pooled")}
    return modeling.Conditions(**pieces)


def computed(modeling, job):
    inputs = dict(np.load(job["inputs"]))
    model = modeling.load(job["folder"], getattr(torch, job["dtype"]))
    noisy, time = image(inputs["noisy"]), torch.from_numpy(inputs["time"])
    found = {}
    with torch.no_grad():
        for case in job["cases"]:
            told = conditions_of(modeling, inputs, **case["told"])
            found[case["name"]] = model(noisy, time, told)
        told = conditions_of(modeling, inputs, camera=True, depth=False, text=False)
        for method in job["methods"]:
            found[method] = model.sample(told, noisy, num_steps=3, method=method)
        found["encoded"] = model.encode(image(inputs["photograph"]))
        found["decoded"] = model.decode(found["encoded"])
    np.savez(job["outputs"], **{k: np.moveaxis(v.numpy(), 1, -1) for k, v in found.items()})


def main(path):
    for name in ("jax", "flax", "diffusers", "bokeh_jax"):
        refuse(name)
    jobs = json.loads(Path(path).read_text())
    sys.path.insert(0, jobs["forward"][0]["folder"])
    import modeling_bokeh

    for job in jobs["forward"]:
        computed(modeling_bokeh, job)
    said = []
    for run in jobs["refocus"]:
        refocus = runpy.run_path(str(Path(run["folder"]) / "refocus.py"))
        with (
            contextlib.redirect_stderr(io.StringIO()) as stderr,
            contextlib.redirect_stdout(io.StringIO()),
        ):
            code = refocus["main"](run["arguments"])
        said.append([code, stderr.getvalue()])
    print(json.dumps(said))


if __name__ == "__main__":
    main(sys.argv[1])
