"""Freed memory is kept for the next step where the C library can be told to, and given back when a training is over."""

import os
import subprocess
import sys

import pytest
import torch

from transfuse.engine import memory
from transfuse.errors import NumericsError

from .test_loop import SGD, trained

# What a step does: many tensors that live together, freed together. Prints page faults of the last of three rounds, and resident MB after.
STEPS = """
import resource, sys
import torch
from transfuse.engine import memory

torch.set_num_threads(1)
told = memory.keep_freed() if "keep" in sys.argv else None
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(1_000_000) for _ in range(40)]
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    del tensors

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 // 2**20

kept = resident()
memory.give_back()
given = resident()
tensors = [torch.ones(60_000_000)]  # more than the free room below
del tensors
print(told, faults, kept, given, resident())
"""


def run(*arguments: str, **environment: str) -> list[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    process = subprocess.run([sys.executable, "-c", STEPS, *arguments], env=clean | environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout.split()


glibc = pytest.mark.skipif("glibc" not in (os.confstr("CS_GNU_LIBC_VERSION") or "") if hasattr(os, "confstr") else True, reason="no glibc")


@glibc
def test_a_second_step_fetches_no_pages():
    told, faults, kept, given, later = run("keep")
    assert told == "True"
    assert int(faults) < 10_000  # 40 tensors of 4 MB are 39,000 pages
    assert int(kept) - int(given) > 100  # 160 MB of them were kept until they were given back
    assert int(later) - int(given) < 100  # and later ones are given back by themselves


@glibc
@pytest.mark.parametrize("setting", [{"MALLOC_TRIM_THRESHOLD_": "100000"}, {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=100000"}])
def test_what_the_user_has_set_stays(setting):
    assert run("keep", **setting)[0] == "False"


def test_another_c_library_is_no_trouble(monkeypatch):
    for name in memory._SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert memory.keep_freed() is False
    memory.give_back()


def test_a_training_keeps_it_and_gives_it_back_however_it_ends(problem, monkeypatch):
    said = []
    monkeypatch.setattr(memory, "keep_freed", lambda: said.append("kept"))
    monkeypatch.setattr(memory, "give_back", lambda: said.append("given back"))
    trained(problem)
    assert said == ["kept", "given back"]
    with pytest.raises(NumericsError):
        trained(problem, optimizer=(SGD[0], {**SGD[1], "lr": 1e30}))
    assert said == 2 * ["kept", "given back"]


def test_on_a_gpu_the_allocator_is_torchs_own(monkeypatch):
    monkeypatch.setattr(memory, "keep_freed", lambda: pytest.fail("it was told to keep memory"))
    with memory.kept(torch.device("cuda")):
        pass
