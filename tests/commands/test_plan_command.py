"""`bokeh-jax plan`: refusals, a plan of the tiny experiment, the ranking, one real compilation."""

import importlib.util
import json
import math

import jax
import pytest

from bokeh_jax import config as config_lib
from bokeh_jax.cli import main
from bokeh_jax.commands import plan_step, plan_sweep
from bokeh_jax.commands.plan import scenes_shape
from bokeh_jax.errors import InvalidInput
from bokeh_jax.models.flops import refocus_forward_flops
from bokeh_jax.training.state import abstract_state
from bokeh_jax.training.step import abstract_batch
from data_pipeline.order import Shape

CONFIG = "--config=configs/dit_xl.py"


def refused(capsys, *options):
    """Runs, asserts exit code 2 and one line on stderr, and returns that line."""
    assert main(["plan", *options]) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    return line


@pytest.fixture
def cpu_topology(monkeypatch):
    """libtpu's chips are this machine's one device."""
    for module in (plan_step, plan_sweep):
        monkeypatch.setattr(module, "topology_devices", lambda *_: jax.devices()[:1])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--topology=v9:2x2",), "--topology is 'v9:2x2'; allowed: v4, v5e, v5p, v6e with a shape"),
        (("--topology=v5e:2x2", "--slices=0"), "--slices is 0; allowed: 1 to 64"),
        (("--topology=v5e:2x2", "--batches=4"), "--batches is '4'; allowed only with --sweep"),
        (("--topology=v5e:2x2", "--scenes=film:9"), "--scenes is 'film:9'; allowed: such as photo"),
        (("--topology=v5e:2x2", "--json={folder}"), "{folder}, a folder; allowed: a file"),
        (("--topology=v5e:2x2", "--program={folder}/a/b"), "--program is {folder}/a/b, which can"),
        (("--topology=v5e:2x2", "--scenes=photographs:64x64"), "allowed: 256x256 px or more"),
        (
            ("--topology=v5e:2x2", "--sweep", "--meshes=rows=2"),
            "--meshes holds 'rows=2'; allowed: sizes of data, fsdp, tensor",
        ),
        (("--topology=v5e:2x2", "--sweep", "--batches=4,x"), "--batches is '4,x'; allowed: whole"),
        (("--topology=v5e:2x2", "--sweep", "--remats=some"), "--remats holds 'some'; allowed: n"),
        (("--topology=v5e:2x2",), "mesh {{'data': -1, 'fsdp': 64, 'tensor': 1}} does not fit"),
        (
            ("--topology=v5e:2x2", "--config.mesh.fsdp=1", "--config.model.patch_size=16"),
            "simulation.frame_multiple_px is 8; allowed: multiples of model.patch_size=16",
        ),
    ],
)
def test_bad_values_are_one_line_before_anything_compiles(
    capsys, monkeypatch, tmp_path, cpu_topology, options, named
):
    monkeypatch.setattr(plan_step, "compile_step", lambda *_: pytest.fail("it compiled"))
    monkeypatch.setattr(plan_sweep, "_planned", lambda *_: pytest.fail("it planned"))
    line = refused(capsys, CONFIG, *(option.format(folder=tmp_path) for option in options))
    assert named.format(folder=tmp_path) in line


def test_without_libtpu_it_says_how_to_get_it(capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    config = config_lib.ExperimentConfig()
    shape = Shape("photographs", 32, 32, 0, 1.0)
    with pytest.raises(InvalidInput, match=r"--topology needs .* 'bokeh-jax\[tpu-plan\]'"):
        plan_step.plan_step(config, "v5e:2x2", 1, shape)


def test_a_step_that_does_not_fit_is_refused_with_its_bytes(monkeypatch, tiny, cpu_topology):
    def compile_step(*_):
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory "
            "space hbm. Used 20.5G of 15.75G hbm. Exceeded hbm capacity by 4.8G."
        )

    monkeypatch.setattr(plan_step, "compile_step", compile_step)
    with pytest.raises(InvalidInput, match=r"needs 20.5G of 15.75G .* memory on v5e:2x2 \(batch 4"):
        plan_step.plan_step(tiny, "v5e:2x2", 1, scenes_shape(None, tiny), simulation=False)


def test_scenes_are_those_of_the_dataset_or_of_the_working_frame(tiny):
    assert str(scenes_shape(None, tiny)) == "layered 26x26 px, 3 layers"
    assert scenes_shape("layered:40x30x2", tiny) == Shape("layered", 40, 30, 2, 1.0)
    elsewhere = config_lib.resolve({"data": {"path": "nowhere"}, "simulation": {"size_px": 48}})
    assert scenes_shape(None, elsewhere) == Shape("photographs", 48, 48, 0, 1.0)


def test_latents_are_planned_by_their_cells(tiny):
    """The real step of a run on stored latents: no autoencoder and no lens blur in it."""
    config = config_lib.load("configs/refocus_xl.py", [])
    shape = scenes_shape("latents:64x48", config)
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    batch = abstract_batch(shape, 3, one)
    assert batch["targets"].shape == (3, 2, 64, 48, 16)
    assert "image" not in batch
    assert plan_step._frame_and_grid(config, shape) == ((512, 384), (64, 48))
    with pytest.raises(
        InvalidInput, match=r"'latents:64x63'; allowed: multiples of .*patch_size=2"
    ):
        scenes_shape("latents:64x63", config)
    with pytest.raises(InvalidInput, match=r"allowed with codec.kind='pixels': photographs"):
        scenes_shape("latents:64x64", tiny)


def test_the_tiny_experiment_is_planned(capsys, tmp_path, tiny, cpu_topology):
    config, path = tmp_path / "config.py", tmp_path / "plan.json"
    config.write_text(
        "import json\n\n\ndef get_config():\n    return "
        f"json.loads('''{config_lib.to_json(tiny)}''')\n"
    )
    options = [f"--config={config}", "--topology=v5p:2x2x1", "--without-simulation"]
    assert main(["plan", *options, f"--json={path}"]) == 0
    out = capsys.readouterr().out
    found = json.loads(path.read_text())
    leaves = jax.tree.leaves(abstract_state(tiny).params)
    count = sum(math.prod(leaf.shape) for leaf in leaves)
    assert found["num_parameters"] == count
    memory = found["memory"]
    assert memory["parameters"] == memory["ema"] == found["parameter_bytes"] == 4 * count
    assert memory["optimizer"] - 8 * count in range(4, 16)
    assert memory["total"] > sum(memory[part] for part in ("parameters", "optimizer", "ema"))
    assert found["images"] == 4 * 2
    wanted = 3 * 8 * refocus_forward_flops(tiny.model, 16, 16)
    assert found["model_flops"] == wanted
    # The compiler counts norms, activations and the update too.
    assert wanted < found["flops"] < 3 * wanted
    assert found["collectives"] == []
    assert found["fits"] is found["gathers_in_parts"] is True
    assert "NOT simulated" in out
    assert "fits: yes" in out
    by_roofline = found["predictions"][0]
    assert by_roofline["mfu"] == pytest.approx(wanted / 459e12 / by_roofline["seconds"])
    assert f"MFU {100 * by_roofline['mfu']:.1f} %" in out


def planned(images_per_day, total):
    rows = [
        {"estimate": name, "hidden": False, "seconds": 1.0, "mfu": 0.5, "images_per_day": number}
        for name, number in (("roofline", images_per_day), ("cycles", 1.0))
    ]
    return {"plan": {"predictions": rows, "memory": {"total": total}}}


def test_a_sweep_ranks_what_fits_and_tells_why_the_rest_does_not(
    capsys, monkeypatch, tmp_path, cpu_topology
):
    asked = []
    no_room = "needs 20.0 of 16.0 GiB of a chip's memory"
    answers = {
        ("fsdp=1", 8, "full"): planned(3e6, 2**30),
        ("fsdp=1", 16, "full"): planned(5e6, 2**31),
        ("fsdp=1", 8, "none"): {"refused": no_room},
        ("data=1,tensor=1", 8, "full"): planned(4e6, 2**30),
        ("data=1,tensor=1", 16, "full"): {"refused": "the compiler ended with exit code -6: died"},
        ("data=1,tensor=1", 8, "none"): {"refused": no_room},
    }

    def plan(arguments, overrides):
        values = dict(override.split("=") for override in overrides)
        mesh = "fsdp=1" if values["mesh.data"] == "-1" else "data=1,tensor=1"
        key = (mesh, int(values["training.global_batch_size"]), values["model.remat"])
        asked.append(key)
        return answers[key]

    monkeypatch.setattr(plan_sweep, "_planned", plan)
    path = tmp_path / "sweep.json"
    options = ["--meshes=fsdp=1;data=1,tensor=1", "--batches=16,8", "--remats=full,none"]
    options += ["--sweep", "--topology=v5e:2x2", f"--json={path}"]
    assert main(["plan", CONFIG, *options]) == 0
    # Where the smaller batch did not fit, the larger one is not compiled.
    assert sorted(asked) == sorted(answers)
    rows = json.loads(path.read_text())
    order = [(row["mesh"], row["global_batch_size"]) for row in rows if "plan" in row]
    assert order == [("fsdp=1", 16), ("data=1,tensor=1", 8), ("fsdp=1", 8)]
    out = capsys.readouterr().out
    assert f"refused: mesh fsdp=1, batch 8, remat none: {no_room}" in out
    assert "batch 16, remat none: a smaller batch did not fit" in out
    assert "exit code -6: died" in out


@pytest.mark.long
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed: pip install 'bokeh-jax[tpu-plan]'",
)
def test_a_small_transformer_is_planned_for_a_tpu(tiny):
    config = config_lib.resolve(
        {
            "data": {"path": "nowhere"},
            "model": {"hidden_dim": 256, "num_heads": 2, "attention": "splash", "remat": "full"},
            "simulation": {"size_px": 64},
            "mesh": {"fsdp": 4, "min_sharded_bytes": 1},
            "training": {"global_batch_size": 8},
        }
        | {"model": {"rope_axes_dim": (16, 56, 56), "hidden_dim": 256, "num_heads": 2}}
    )
    shape = scenes_shape(None, config)
    found = plan_step.plan_step(config, "v5e:2x2", 1, shape, simulation=False)
    assert found.mesh == {"data": 1, "fsdp": 4, "tensor": 1}
    assert found.model_flops < found.work.flops < 3 * found.model_flops
    assert {one.axes for one in found.work.collectives} == {"fsdp"}
    assert found.work.time.cycles_seconds > 0
    assert found.work.time.roofline_seconds > 0
