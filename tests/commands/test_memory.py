import mmap
import subprocess
import sys
from pathlib import Path

import jax

from bokeh_jax import memory
from bokeh_jax.commands.quality import make_room

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


def test_mappings_are_counted():
    before = memory.mapped_share()
    # Neighbours with other rights cannot be one mapping.
    held = [
        mmap.mmap(-1, 4096, prot=mmap.PROT_READ | (i % 2) * mmap.PROT_WRITE) for i in range(600)
    ]
    more = memory.mapped_share() - before
    most = int(Path("/proc/sys/vm/max_map_count").read_text())
    for mapping in held:
        mapping.close()
    assert 0 < before < 1
    assert 500 / most < more < 700 / most


def test_programs_are_given_up_where_mappings_run_out():
    program = jax.jit(lambda x: x + 1)
    program(1.0)
    assert not make_room(most_mapped=1.0)
    assert program._cache_size() == 1
    assert make_room(most_mapped=0.0)
    assert program._cache_size() == 0
    assert program(1.0) == 2.0
