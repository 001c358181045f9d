"""Strict settings for every test: no silent dtype or rank promotion, shared compilation cache."""

import gc
import os
from pathlib import Path

import hypothesis
import jax
import psutil
import pytest

pytest_plugins = ["tiny_experiment", "random_runs"]

MOST_BYTES_KEPT = 2 << 30
# By processor time, those of a quarter of a minute and more. A file stays with one worker, so that
# what its tests share is made once; the longest go first, so that none is left to one worker at the
# end.
LONGEST_FIRST = (
    "test_exact.py",
    "test_scores_and_report.py",
    "test_torch_export.py",
    "test_defocus_task.py",
    "test_generator.py",
    "test_distribution_matching.py",
    "test_exif_defocus.py",
    "test_focus_task.py",
    "test_evaluate_command.py",
    "test_render_defocus.py",
    "test_frozen.py",
    "test_nonfinite.py",
    "test_lora.py",
    "test_quality.py",
    "test_dit.py",
    "test_refocus_dit.py",
    "test_shapes.py",
    "test_sharding.py",
    "test_refocus_objective.py",
    "test_checkpoint.py",
    "test_command_line.py",
    "test_render_command.py",
    "test_depth_parity.py",
    "test_latents_command.py",
    "test_stalled_jobs.py",
    "test_lora_parity.py",
    "test_text_encoder.py",
    "test_profiling.py",
    "test_condition_cache.py",
    "test_latents.py",
    "test_diffusers_export.py",
    "test_focal_stack.py",
    "test_render_layers.py",
    "test_aperture_gradients.py",
    "test_train_loop.py",
    "test_reading.py",
    "test_autoencoder_parity.py",
    "test_topology.py",
    "test_ray_traced_scenes.py",
    "test_warm_start.py",
)
CACHE_DIR = os.environ.get(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".cache" / "jax")
)

SETTINGS = {
    "jax_platforms": "cpu",
    "jax_numpy_dtype_promotion": "strict",
    "jax_numpy_rank_promotion": "raise",
    "jax_compilation_cache_dir": CACHE_DIR,
    "jax_persistent_cache_min_compile_time_secs": 0.3,
    # Most tests compile more than they compute; those that compute ask for optimised code. Set here
    # and not only around tests, so that fixtures of any scope are compiled like the tests that use
    # them.
    "jax_disable_most_optimizations": True,
}
for name, value in SETTINGS.items():
    jax.config.update(name, value)
    # So are the processes that tests start, which then find the same programs in the cache.
    os.environ[name.upper()] = str(value)
# XLA's older emitter of fused loops compiles a small program in half the time. Read when the
# backend starts, so importing JAX before this line is early enough.
# Cutting programs into parts, to be compiled side by side, costs a fifteenth where two processes
# share two cores already.
os.environ["XLA_FLAGS"] = (
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)

# Examples are the same at every run, and how long one takes is the machine's affair.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repeatable")

# Tracing makes millions of small objects that live on: looking through all of them again and again
# took a tenth of the suite's time.
gc.set_threshold(100_000, 50, 100)


def pytest_collection_modifyitems(items):
    rank = {name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


@pytest.fixture(autouse=True, scope="module")
def _bounded_memory():
    """A worker that has run a thousand tests holds gigabytes of executables that none needs."""
    yield
    if psutil.Process().memory_info().rss > MOST_BYTES_KEPT:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(autouse=True)
def _optimised_compilation(request):
    if request.node.get_closest_marker("optimised") is None:
        yield
        return
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
