"""Curves of a training in stages: lines break where a loss becomes another, each stage is named, a preparation stands apart."""

import json
import re

from tests.report.runs import write_run
from transfuse.report import page, plots
from transfuse.report.collect import Curve


def row(step, stage="", **terms):
    return {"step": step, "epoch": step / 4, "loss": sum(terms.values()), "terms": terms, **({"stage": stage} if stage else {})}


STAGED = [row(step, "fsp", fsp=100.0 / step) for step in range(1, 5)] + [row(step, kd=2.0, ft=0.5) for step in range(5, 13)]


def pieces(drawn):
    """How many pieces the lines of a figure have: each begins with M."""
    return len(re.findall(r"M [\d.]+ [\d.]+ \nL", str(drawn)))


def test_a_staged_training_is_drawn_in_pieces_under_the_stages_name():
    drawn = plots.loss_plot(Curve(STAGED))
    assert "fsp alone" in str(drawn)
    assert "over time; fsp alone at first" in str(drawn)
    whole = plots.loss_plot(Curve([{key: value for key, value in line.items() if key != "stage"} for line in STAGED]))
    assert "alone" not in str(whole)
    assert pieces(drawn) == pieces(whole) + 2, "the loss has a gap, and a line marks it"


def test_a_preparation_has_a_figure_of_its_own_and_no_place_among_validations(tmp_path):
    write_run(tmp_path)
    with open(tmp_path / "metrics.jsonl", "a", encoding="utf-8") as file:
        for step in range(1, 9):
            file.write(json.dumps({"run": "student.ft", "kind": "train", **row(step, "preparation", ft=1 / step)}) + "\n")
    text = page.write(tmp_path).read_text(encoding="utf-8")
    assert "Preparation of ft, before the student" in text
    (validations,) = re.findall(r'aria-label="Validation accuracy over time for ([^"]*)"', text)
    assert "student" in validations
    assert "ft" not in validations
