"""Figures on the page about merging stand in their result files."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "merging.md").read_text(encoding="utf-8")


def result(name):
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def cells(start):
    """Numbers of the table row that begins so."""
    line = next(line for line in PAGE.splitlines() if line.startswith(f"| {start} |"))
    return [float(number) for number in re.findall(r"\d+\.\d+", line)]


def test_the_two_published_mlps():
    found = result("align_mnist")
    alone, after = found["test, untrained"], found["test, after one epoch"]
    names = ("otfusion_mlp_0", "otfusion_mlp_1")
    assert cells("the parents") == [alone[name] for name in names] + [after[name]["mean"] for name in names]
    assert cells("the mean of their logits (two networks)") == [alone["mean of the logits"]]
    assert cells("the mean of their weights") == [alone["mean of the weights"], after["mean of the weights"]["mean"]]
    assert cells("weight matching, units repaired (chosen)") == [alone["chosen"], after["aligned"]["mean"]]
    chosen = found["chosen on 10,000 training pictures"]
    assert chosen == max(found["variants"], key=lambda name: found["variants"][name]["choosing"])
    assert cells("activation matching, units repaired") == [found["variants"]["activation_matching, units repaired"]["test"]]


def test_repair():
    found = result("repair_mnist")
    for words, part in (("with BatchNorm", "with BatchNorm"), ("without", "without")):
        for rule in ("activation", "weight"):
            figures = found[part]
            names = ("parents", f"{rule}_matching, statistics averaged", f"{rule}_matching, repaired")
            share = figures[f"{rule}_matching: percent of the gap recovered"]["mean"]
            assert cells(f"{words}, {rule} matching") == [*(figures[name]["mean"] for name in names), share]
