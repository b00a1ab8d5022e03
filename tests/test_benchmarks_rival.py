"""What the benchmarks say of a command is of that command."""

import sys

import numpy as np
import pytest

from benchmarks.rival import measured, own_peak


def test_the_peak_is_that_of_the_command_and_its_children_not_of_who_ran_it():
    held = np.ones(40 << 20)  # 320 MiB
    small = measured([sys.executable, "-S", "-c", "pass"])
    inner = "import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', 'bytearray(200 << 20)'])"
    large = measured([sys.executable, "-S", "-c", inner])
    assert held.nbytes < own_peak()
    assert small.peak_bytes < 100 << 20
    assert 200 << 20 < large.peak_bytes < 300 << 20


def test_a_command_that_fails_is_told_with_what_it_said():
    with pytest.raises(RuntimeError, match=r"ended with 3:\nno such luck"):
        measured([sys.executable, "-S", "-c", "print('no such luck'); raise SystemExit(3)"])
