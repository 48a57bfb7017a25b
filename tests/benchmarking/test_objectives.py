"""The scales that objectives are weighed on are right, and the formulation they are compared with computes the same."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmarks import broadcast, results
from benchmarks import objectives as bench

from transfuse import objectives
from transfuse.objectives.features.fsp import fsp_loss
from transfuse.objectives.features.nst import nst_loss
from transfuse.objectives.relations.crd import crd_loss

MEGABYTE = 250_000  # floats


def test_memory_is_the_peak_of_what_lives_at_one_time():
    def work():
        first = torch.empty(3 * MEGABYTE)
        del first
        second, third = torch.empty(MEGABYTE), torch.empty(MEGABYTE)
        del second, third

    assert bench.peak_bytes(work) == pytest.approx(3e6, rel=1e-3)


def test_memory_counts_what_backward_needs():
    inputs = torch.randn(MEGABYTE, requires_grad=True)

    def work():
        inputs.grad = None
        inputs.exp().exp().sum().backward()  # two results are kept for backward, one more is made on the way

    assert bench.peak_bytes(work) == pytest.approx(3e6, rel=0.01)


def test_memory_is_not_lowered_by_the_release_of_what_was_there_before():
    kept = []

    def work():
        kept.clear()
        kept.append(torch.empty(2 * MEGABYTE))

    for _ in range(3):
        work()
        assert bench.peak_bytes(work) == pytest.approx(2e6, rel=1e-3)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process its own peak")
def test_memory_agrees_with_what_the_operating_system_counts():
    code = """
import re, torch
from pathlib import Path
from benchmarks import broadcast

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

torch.set_num_threads(1)
broadcast.crd_case(2, 64, 64)[1]()
work = broadcast.crd_case(16, 16384, 64)[1]
before = peak()
work()
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(bench.__file__).parents[1])
    assert bench.peak_bytes(broadcast.crd_case(16, 16384, 64)[1]) == pytest.approx(int(done.stdout), rel=0.15)


def test_a_time_is_in_yardsticks_of_the_same_block(monkeypatch):
    clock, slowness = [0.0], [1.0]
    monkeypatch.setattr(bench.time, "perf_counter", lambda: clock[0])

    def lasting(seconds):
        def work():
            clock[0] += seconds * slowness[0]
            slowness[0] *= 1.01  # a machine that slows down all the while

        return work

    middle, low, high = bench.times_of(lasting(0.4), lasting(0.1))
    assert middle == pytest.approx(4, rel=0.02)
    assert 3.9 < low <= middle <= high < 4.1


@pytest.mark.parametrize("shape", [(3, 6, 5, 5), (2, 40, 3, 3)])
def test_the_broadcast_formulations_compute_the_same(shape):
    generator = torch.Generator().manual_seed(0)
    features = [[torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)] for _ in range(2)]
    torch.testing.assert_close(broadcast.nst(features[0][0], features[1][0]), nst_loss(features[0][0], features[1][0]))
    torch.testing.assert_close(broadcast.fsp(*features), fsp_loss(*features))


def test_the_drawn_contrast_is_ours_where_the_whole_bank_is_drawn():
    generator = torch.Generator().manual_seed(0)

    def units(rows):
        return torch.nn.functional.normalize(torch.randn(rows, 8, generator=generator, dtype=torch.float64), dim=1)

    student, teacher, banks = units(5), units(5), (units(20), units(20))
    constants = torch.tensor([1.5, 0.7], dtype=torch.float64)
    ours = crd_loss(student, teacher, *banks, torch.ones(5, 20, dtype=torch.bool), constants, 0.3)
    torch.testing.assert_close(broadcast.crd(student, teacher, banks, torch.arange(20).expand(5, 20), constants, 0.3), ours)


def test_the_large_student_is_resnet50_with_maps_of_256_by_56_by_56():
    network = broadcast.ResNet50(1000)
    assert sum(parameter.numel() for parameter in network.parameters()) == 25_557_032  # torchvision's resnet50
    with torch.device("meta"):
        network = broadcast.ResNet50(1000)
        inputs = torch.empty(2, 3, 224, 224)
    assert network.blocks[:3](network.stem(inputs)).shape == (2, 256, 56, 56)


@pytest.mark.parametrize("name", ["cat_kd", "simkd"])
def test_what_reads_the_last_features_gets_a_network_that_ends_with_them(name, monkeypatch):
    monkeypatch.setitem(bench.SCALES, "large", replace(bench.SCALES["large"], classes=10, side=32))
    large = bench.Bench("large")
    weighted, network, teacher = large.connected(name)
    assert large.shapes(network, weighted.student_taps) == {"blocks.2": (256, 8, 8)}  # 56x56 of 224x224
    assert large.shapes(teacher, weighted.teacher_taps) == {"blocks.2": (256, 8, 8)}


def test_a_second_head_is_given_what_the_head_is_given_and_several_teachers_are_tapped_by_name():
    large = bench.Bench("large")
    assert large.taps("mcd", ()) == ((), ())
    assert large.taps("layer_amalgamation", ("teacher", "second")) == (("blocks.2",), ("teacher:blocks.2", "second:blocks.2"))


KINDS = ["kd", "fsp", "crd", "mlld", "l2_sp", "bce", "dann", "huber", "attention_maps", "common_features", "co_tuning", "mcd"]


@pytest.mark.parametrize("name", KINDS)
def test_an_objective_of_each_kind_can_be_measured(name, monkeypatch):
    monkeypatch.setattr(bench, "BLOCKS", 2)
    row = bench.measure(name, bench.Bench("cifar"), bench.Unit(1.0, 10**6), torch.ones(9).sum)
    assert row["time"] > 0
    assert row["megabytes"] > 0


def test_the_result_file_is_whole_and_meets_the_target():
    kept = json.loads((results.FOLDER / "objectives.json").read_text())
    assert set(kept["objectives"]) <= set(objectives.names())
    for name, row in kept["objectives"].items():
        assert row.keys() | kept["unmeasured"].get(name, {}).keys() == bench.SCALES.keys(), name
    for label, row in kept["against_broadcast"].items():
        assert row["times_faster"] >= 3 or row["times_leaner"] >= 5, label
