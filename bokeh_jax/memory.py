"""Memory of CPU programs, kept between calls.

XLA's CPU backend asks for its temporaries at every call and frees them after it. glibc returns such
large blocks to the kernel, which hands them out again page by page, zeroed: a fifth of the lens
blur's time, and of a training step's. A leaf module: it imports nothing of ours, nor JAX.
"""

import ctypes
from pathlib import Path

# glibc's malloc.h: no block is mapped on its own, the heap is never trimmed, and all threads share
# the one arena that both hold for.
_SETTINGS = {"M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, -1), "M_ARENA_MAX": (-8, 1)}
_ACCELERATORS = ("/dev/nvidiactl", "/dev/accel0", "/dev/vfio/0", "/dev/kfd")


def keep_freed_memory() -> bool:
    """Let the process keep what it frees, before JAX starts; whether it does so.

    Left alone where an accelerator is found, whose temporaries are none of malloc's, and where the
    C library is not glibc.
    """
    if any(Path(device).exists() for device in _ACCELERATORS):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all(mallopt(*setting) == 1 for setting in _SETTINGS.values())


def mapped_share() -> float:
    """Mappings of this process over the most that the kernel gives one; 0 where it does not say.

    Every compiled program takes a few. At the limit (65,530 on most Linux machines) an allocation
    fails though there is memory, and LLVM ends the process.
    """
    try:
        most = int(Path("/proc/sys/vm/max_map_count").read_text(encoding="ascii"))
        return Path("/proc/self/maps").read_bytes().count(b"\n") / most
    except (OSError, ValueError):
        return 0.0
