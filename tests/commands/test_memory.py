import subprocess
import sys

from bokeh_jax import memory

COUNT_FAULTS = """
import resource, sys
import numpy as np
from bokeh_jax.memory import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit("not kept")
for turn in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(100 * 2**17)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults)
"""


def faults(mode):
    run = subprocess.run(
        [sys.executable, "-c", COUNT_FAULTS, mode], capture_output=True, text=True, check=True
    )
    return int(run.stdout)


def test_freed_memory_comes_back_without_page_faults():
    # 100 MiB in pages of 4 KiB, or of 2 MiB where the kernel gives those unasked.
    assert faults("leave") >= 50
    assert faults("keep") < 5


def test_memory_is_left_alone_beside_an_accelerator(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_ACCELERATORS", (str(tmp_path),))
    assert not memory.keep_freed_memory()
