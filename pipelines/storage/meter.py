"""Elapsed time and peak memory of this process."""

import resource
import time
from pathlib import Path


class Meter:
    """Seconds and peak resident memory of this process since construction.

    Pairs that run in parallel share one process: each one's figures include the others, and a pair that starts resets
    the peak.
    """

    def __init__(self) -> None:
        self._start = time.monotonic()
        try:
            Path("/proc/self/clear_refs").write_text("5")  # Linux: reset the high-water mark
            self._is_resettable = True
        except OSError:
            self._is_resettable = False

    def seconds(self) -> float:
        """Seconds since construction."""
        return time.monotonic() - self._start

    def peak_bytes(self) -> int:
        """Peak resident memory: since construction on Linux, elsewhere since the process started."""
        if self._is_resettable:
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) << 10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
