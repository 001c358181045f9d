"""Memory in use: of this process, and of its fullest device where the backend counts it."""

import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_GIB = float(1 << 30)
_STATM = Path("/proc/self/statm")


def host_memory_gib() -> dict[str, float]:
    """Resident memory of this process, and its peak (the peak alone where there is no /proc)."""
    # getrusage counts in KiB, on macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    found = {
        "host_memory_peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _GIB
    }
    if _STATM.exists():
        pages = int(_STATM.read_text().split()[1])
        found["host_memory_gib"] = pages * resource.getpagesize() / _GIB
    return found


def device_memory_gib(stats: Sequence[Mapping[str, int] | None]) -> dict[str, float]:
    """Of the fullest device; empty where the backend keeps no count, as on CPUs.

    Args:
        stats: `Device.memory_stats()` of each; the allocator answers it without the device.
    """
    names = {
        "device_memory_gib": "bytes_in_use",
        "device_memory_peak_gib": "peak_bytes_in_use",
        "device_memory_limit_gib": "bytes_limit",
    }
    found = [counts for counts in stats if counts]
    return {
        name: max(counts[key] for counts in found) / _GIB
        for name, key in names.items()
        if found and all(key in counts for counts in found)
    }
