import platform
import subprocess
import sys

import pytest

from alignment_train.training import heap

STEP = """
import resource, torch
from alignment_train.training import heap

weights = torch.ones(64, 8000, requires_grad=True)

def step():
    logits = torch.ones(1600, 64) @ weights  # 49 MiB, above glibc's default threshold
    torch.nn.functional.cross_entropy(logits, torch.zeros(1600, dtype=torch.long)).backward()

def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
"""


def page_faults(setting: str) -> int:
    """Page faults of a process in five steps of the same size."""
    code = f"{STEP}\n{setting}\nstep()\nbefore = pages()\nfor _ in range(5): step()\nprint(pages() - before)"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has no such setting")
def test_freed_memory_is_reused_by_the_next_step():
    default, retained = page_faults(""), page_faults("assert heap.retain_freed_memory()")
    assert default > 100_000
    assert retained < 0.6 * default
    assert page_faults("assert heap.retain_freed_memory(heap.LARGE_WEIGHT)") > 0.8 * default


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: object())
    assert heap.retain_freed_memory.__wrapped__() is False
