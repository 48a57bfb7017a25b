"""The page: the summary's numbers, nothing from the network, everything escaped, no crash on gaps."""

import base64
import csv
import html
import io
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from markupsafe import Markup

from tests.report.runs import write_run
from transfuse.errors import RunError
from transfuse.report import page, table, words
from transfuse.report.collect import collect

HOSTILE = ["<script>alert(1)</script>", "a&b", '"quoted"', "it's", "$5 <b>", "x" * 60, "]]>", "{{ 7 * 7 }}"]
VOID = {"meta", "br", "wbr", "img", "link", "input", "hr", "path", "use", "circle"}


class Reader(HTMLParser):
    """Collects tags, attributes and text, and notices elements that are closed in the wrong order."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.tags, self.text, self.open, self.mismatched = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.mismatched.append(tag)

    def handle_data(self, data):
        self.text.append(data)


def read(path):
    reader = Reader()
    reader.feed(page.write(path).read_text(encoding="utf-8"))
    reader.words = " ".join("".join(reader.text).split())
    return reader


@pytest.fixture(scope="module")
def ten(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "ten"
    return path, write_run(path, n=200), read(path)


def test_the_page_shows_the_summarys_numbers(ten):
    _, summary, found = ten
    for block in [*summary["models"].values(), *summary["teachers"].values()]:
        assert words.metric("accuracy", block["metrics"]["accuracy"]) in found.words
        assert words.interval("accuracy", block["intervals"]["accuracy"]) in found.words
        assert f"{block['parameters']:,}" in found.words
        for value in block["metrics"].values():
            assert f"{value:.4f}" in found.words
    assert f"{100 * summary['transfer']['agreement']:.2f}%" in found.words
    assert words.verdict(summary).sentence in found.words


def test_the_numbers_are_embedded_as_they_are_in_summary_json(ten):
    path, summary, found = ten
    text = (path / "report.html").read_text()
    block = re.search(r'<script type="application/json" id="summary">(.*?)</script>', text, re.S)[1]
    assert json.loads(block) == summary
    links = {attributes["download"]: attributes["href"] for tag, attributes in found.tags if tag == "a" and "download" in attributes}
    content = {name: base64.b64decode(link.split(",", 1)[1]).decode() for name, link in links.items()}
    assert json.loads(content["summary.json"]) == summary
    rows = {(row["model"], row["metric"]): row for row in csv.DictReader(io.StringIO(content["metrics.csv"]))}
    assert float(rows["student", "nll"]["value"]) == summary["models"]["student"]["metrics"]["nll"]
    assert float(rows["teacher", "accuracy"]["low"]) == summary["teachers"]["teacher"]["intervals"]["accuracy"][0]


def test_costs_that_a_model_does_not_have_are_left_empty_and_its_runtime_is_told(ten, tmp_path):
    shutil.copytree(ten[0], tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    graph = summary["teachers"]["teacher"]
    graph |= {"parameters": None, "macs": None, "macs_leave_out": None, "memory": None}
    graph["reasons"] = {"parameters": "a graph that onnxruntime runs"}
    graph["latency_ms"] |= {"runtime": "onnxruntime", "dtype": None}
    (tmp_path / "run" / "summary.json").write_text(json.dumps(summary))
    row = next(row for row in table.rows(summary) if row["model"] == "teacher")
    assert (row["parameters"], row["MACs"], row["latency"]) == ("", "", "2.31 ms")
    assert table.latency_note(summary).endswith("in torch, float32, 1 thread; teacher in onnxruntime, 1 thread.")
    found = read(tmp_path / "run")
    assert "parameters: a graph that onnxruntime runs (teacher)" in found.words
    links = {attributes["download"]: attributes["href"] for tag, attributes in found.tags if tag == "a" and "download" in attributes}
    rows = csv.DictReader(io.StringIO(base64.b64decode(links["metrics.csv"].split(",", 1)[1]).decode()))
    assert {row["metric"]: row["value"] for row in rows if row["model"] == "teacher"}["parameters"] == ""
    assert "None" not in found.words


def test_the_page_needs_no_network_and_runs_no_script(ten):
    path, _, found = ten
    for tag, attributes in found.tags:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            target = attributes.get(name) or ""
            if target.startswith(("http:", "https:", "//")):
                assert tag == "a", f"<{tag} {name}={target}>"
        assert not [name for name in attributes if name.startswith("on")]
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert tag != "script" or attributes["type"] == "application/json"
    text = (path / "report.html").read_text()
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_the_page_is_well_formed(ten):
    _, _, found = ten
    assert not found.mismatched
    assert not found.open
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    used = [attributes["href"][1:] for tag, attributes in found.tags if tag == "use"]
    assert set(used) <= set(ids)


def test_the_page_has_all_sections(ten):
    _, _, found = ten
    for heading in (
        "What was asked", "How it went", "Class by class", "Confusions", "Where student and teacher disagree", "All metrics",
        "Using the student", "Said during the run", "What auto became", "Recipe", "Environment",
    ):  # fmt: skip
        assert heading in found.words
    assert "Knowledge distillation (soft targets)" in found.words
    assert "fp32: the CPU has no matrix units for bf16" in found.words
    assert "teacher: the only teacher" in found.words
    assert "a.jpg, b.jpg" in found.words
    assert sum(tag == "svg" for tag, _ in found.tags) == 6  # with the flow of the job
    assert sum(tag == "img" for tag, _ in found.tags) == 12


def test_figures_have_no_colour_of_their_own(ten):
    path, _, _ = ten
    for figure in re.findall(r"<svg.*?</svg>", (path / "report.html").read_text(), re.S):
        assert not re.findall(r"#[0-9a-fA-F]{6}\b", figure)
        assert set(re.findall(r"var\(--([a-z0-9-]+)\)", figure)) <= {
            "ink",
            "muted",
            "line",
            "student",
            "control",
            "teacher",
            "panel",
            *(f"extra-{i}" for i in range(1, 5)),
        }


def test_the_matrices_are_the_confusions(ten):
    path, _, _ = ten
    with np.load(path / "predictions" / "student.npz") as stored:
        labels, predicted = stored["labels"], stored["outputs"].argmax(1)
    matrix = (path / "report.html").read_text().split('<table class="matrix')[1].split("</table>")[0]
    cells = [int(cell) for cell in re.findall(r"<td[^>]*>(\d+)</td>", matrix)]
    expected = [int(((labels == true) & (predicted == said)).sum()) for true in range(10) for said in range(10)]
    assert cells == expected


def test_the_gallery_holds_samples_on_which_they_disagree(ten):
    path, _, found = ten
    answers = {name: np.load(path / "predictions" / f"{name}.npz") for name in ("student", "teacher")}
    differ = answers["student"]["outputs"].argmax(1) != answers["teacher"]["outputs"].argmax(1)
    allowed = {f"test sample {name}" for name in answers["student"]["ids"][differ]}
    shown = {attributes["alt"] for tag, attributes in found.tags if tag == "img"}
    assert shown <= allowed
    assert f"answer differently on {differ.sum()} of 200" in found.words


def test_names_with_html_do_no_harm(tmp_path):
    write_run(tmp_path / "run", n=160, names=HOSTILE)
    notes = json.loads((tmp_path / "run" / "reasons.json").read_text()) | {"notes": ["</li><script>evil()</script>"]}
    (tmp_path / "run" / "reasons.json").write_text(json.dumps(notes))
    found = read(tmp_path / "run")
    text = (tmp_path / "run" / "report.html").read_text()
    assert not found.mismatched
    assert "<script>alert" not in text
    assert "<script>evil" not in text
    assert sum(tag == "script" for tag, _ in found.tags) == 1
    for name in HOSTILE:
        assert name in "".join(found.text), name
    assert "{{ 7 * 7 }}" in html.unescape(text)


def test_multilabel_shows_f1_by_class_and_the_sets_that_differ(tmp_path):
    summary = write_run(tmp_path / "run", "multilabel", n=120, names=["person", "car", "dog"])
    found = read(tmp_path / "run")
    assert words.metric("f1", summary["models"]["student"]["metrics"]["f1"]) in found.words
    assert "F1 of each model" in found.words
    assert "Confusions" not in found.words
    assert any(tag == "img" for tag, _ in found.tags)


def test_regression_shows_scatter_and_no_classes(tmp_path):
    summary = write_run(tmp_path / "run", "regression", n=100, names=["progression <b>"])
    found = read(tmp_path / "run")
    assert "Predictions of progression <b>" in "".join(found.text)
    assert "Class by class" not in found.words
    assert f"{summary['models']['student']['metrics']['rmse']:.4g}" in found.words
    assert "away from the teacher's" in found.words
    assert sum(tag == "svg" for tag, _ in found.tags) == 6  # with the flow of the job


def test_many_classes_show_the_commonest_confusions(tmp_path):
    write_run(tmp_path / "run", n=600, names=[f"class number {i}" for i in range(100)])
    found = read(tmp_path / "run")
    assert "commonest confusions" in found.words
    assert not [attributes for tag, attributes in found.tags if tag == "table" and "matrix" in (attributes.get("class") or "")]
    assert "20 of " in found.words
    assert (tmp_path / "run" / "report.html").stat().st_size < 500_000


@pytest.mark.parametrize(("changes", "said"), [({"control": False}, "There is no control"), ({"teacher": False}, "against")])
def test_a_run_without_control_or_teacher_is_reported(tmp_path, changes, said):
    write_run(tmp_path / "run", n=120, **changes)
    found = read(tmp_path / "run")
    assert said in found.words
    assert ("Where student and teacher disagree" in found.words) == ("teacher" not in changes)


OPTIONAL = [
    "recipe.yaml", "recipe.resolved.yaml", "reasons.json", "env.json", "student.json", "metrics.jsonl", "control/metrics.jsonl",
    "predictions/student.npz", "predictions/control.npz", "predictions/teacher.npz",
]  # fmt: skip


@pytest.mark.parametrize("name", [*OPTIONAL, "samples/samples.npz"])
@pytest.mark.parametrize("damage", ["missing", "garbage"])
def test_a_missing_or_damaged_file_leaves_a_line_and_no_crash(ten, tmp_path, monkeypatch, name, damage):
    monkeypatch.setattr("transfuse.report.plots.svg", lambda drawn, description: Markup("<svg></svg>"))  # drawing takes the time
    path = tmp_path / "run"
    shutil.copytree(ten[0], path)
    (path / name).write_bytes(b"\x00\xff{[: not what it was") if damage == "garbage" else (path / name).unlink()
    found = read(path)
    told = f"This report: {name} {'is not there' if damage == 'missing' else 'cannot be read'}".replace("cannot", "can't")
    assert told in found.words


def test_a_folder_with_only_its_summary_is_reported(ten, tmp_path):
    shutil.copy(ten[0] / "summary.json", tmp_path / "summary.json")
    found = read(tmp_path)
    assert words.verdict(ten[1]).sentence in found.words
    assert found.words.count("is not there") == len(OPTIONAL)


def test_a_line_cut_short_by_a_kill_is_skipped(ten, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(ten[0], path)
    with open(path / "metrics.jsonl", "a") as file:
        file.write('{"run": "student", "kind": "tra')
    assert len(collect(path).curves["student"].train) == len(collect(ten[0]).curves["student"].train)


def test_an_unfinished_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="not finished"):
        page.write(tmp_path)
    with pytest.raises(RunError, match="no such run folder"):
        page.write(tmp_path / "nowhere")
    (tmp_path / "summary.json").write_text('{"models"')
    with pytest.raises(RunError, match="can't be read"):
        page.write(tmp_path)


def test_pickled_arrays_are_not_opened(ten, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(ten[0], path)
    np.savez(path / "predictions" / "teacher.npz", ids=np.array([object()]), labels=[0], outputs=[[0.0]])
    assert "predictions/teacher.npz can't be read" in read(path).words


def test_a_teacher_that_knows_only_some_samples_is_shown_where_it_answers(ten, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(ten[0], path)
    stored = dict(np.load(path / "predictions" / "teacher.npz"))
    stored["outputs"][:150] = np.nan
    np.savez(path / "predictions" / "teacher.npz", **stored)
    with np.load(path / "predictions" / "student.npz") as student:
        differ = (student["outputs"].argmax(1) != stored["outputs"].argmax(1))[150:].sum()
    assert f"answer differently on {differ} of 200" in read(path).words


def test_several_teachers_each_have_a_row(ten, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(ten[0], path)
    summary = json.loads((path / "summary.json").read_text())
    summary["teachers"] = {"big": summary["teachers"]["teacher"], "small": summary["models"]["control"]}
    (path / "summary.json").write_text(json.dumps(summary))
    shutil.move(path / "predictions" / "teacher.npz", path / "predictions" / "big.npz")
    assert [row["model"] for row in table.rows(summary)] == ["student", "control", "teacher big", "teacher small"]
    assert "teacher small" in read(path).words


def test_a_loss_over_many_decades_has_readable_numbers_on_its_axis(ten, tmp_path):
    run = shutil.copytree(ten[0], tmp_path / "decades")
    lines = [{"run": "student", "kind": "train", "step": step, "epoch": step / 10, "loss": 10 ** (2 - step / 20)} for step in range(1, 101)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = page.write(run).read_text()
    assert "mathdefault" not in text
    assert ">0.01<" in text
