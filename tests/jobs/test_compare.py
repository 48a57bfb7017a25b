"""Pages of several runs: the summaries' numbers, said where runs can't be compared, one message for a damaged folder."""

import base64
import csv
import io
import json
import re
import shutil

import pytest

from tests.report.runs import write_run
from tests.report.test_page import HOSTILE, Reader
from transfuse.cli.main import run as command
from transfuse.errors import RunError
from transfuse.jobs.compare import compare, rewrite
from transfuse.report import compare as comparing
from transfuse.report import words
from transfuse.report.compare import flattened
from transfuse.report.drawing import clipped
from transfuse.report.entry_plots import front_of


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Three runs on the same samples, of which the last is weaker."""
    folder = tmp_path_factory.mktemp("three")
    for number in range(3):
        write_run(folder / f"run-{number}", n=200, weaker=number == 2)
        path = folder / f"run-{number}" / "recipe.resolved.yaml"
        path.write_text(path.read_text().replace("temperature: 4.0", f"temperature: {number + 1}.0"))
    return sorted(folder.iterdir())


def read(path):
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.words = " ".join("".join(reader.text).split())
    return reader


@pytest.fixture(scope="module")
def page(three, tmp_path_factory):
    found, path = compare(three, tmp_path_factory.mktemp("page") / "page.html")
    return found, path, read(path)


@pytest.fixture
def undrawn(monkeypatch):
    """Without figures, whose drawing takes the time."""
    monkeypatch.setattr("transfuse.report.entry_plots.svg", lambda drawn, described: described)
    monkeypatch.setattr("transfuse.report.plots.svg", lambda drawn, described: described)


def test_the_page_shows_the_summaries_numbers(three, page):
    for run in three:
        block = json.loads((run / "summary.json").read_text())["models"]["student"]
        assert words.metric("accuracy", block["metrics"]["accuracy"]) in page[2].words
        assert words.interval("accuracy", block["intervals"]["accuracy"]) in page[2].words
        assert f"{block['parameters']:,}" in page[2].words


def test_the_numbers_are_embedded_as_json_and_csv(three, page):
    text = page[1].read_text()
    embedded = json.loads(re.search(r'<script type="application/json" id="summary">(.*?)</script>', text, re.S)[1])
    assert embedded == {run.name: json.loads((run / "summary.json").read_text()) for run in three}
    files = dict(re.findall(r'download="([^"]+)" href="data:text/csv;base64,([^"]+)"', text))
    rows = list(csv.DictReader(io.StringIO(base64.b64decode(files["models.csv"]).decode())))
    accuracy = {row["model"]: float(row["value"]) for row in rows if row["figure"] == "accuracy"}
    assert accuracy == {name: summary["models"]["student"]["metrics"]["accuracy"] for name, summary in embedded.items()}
    tests = list(csv.DictReader(io.StringIO(base64.b64decode(files["tests.csv"]).decode())))
    assert len(tests) == 2
    assert float(tests[-1]["difference"]) == pytest.approx(accuracy[tests[-1]["second"]] - accuracy[tests[-1]["first"]])


def test_nothing_is_loaded_from_elsewhere_and_every_element_is_closed(page):
    assert not page[2].mismatched
    for tag, attributes in page[2].tags:
        for key in ("src", "href"):
            assert not (attributes.get(key) or "").startswith(("http:", "//")), tag


def test_what_differs_in_the_recipes_is_shown_and_what_does_not_is_not(page):
    labels, differences = comparing.recipe_differences(page[0].runs)
    assert labels == ["run-0", "run-1", "run-2"]
    assert dict(differences) == {"objectives.kd.temperature": ["1", "2", "3"]}
    assert "objectives.kd.temperature" in page[2].words


def test_the_best_is_named_and_so_is_who_is_within_chance(page):
    group = page[0].groups[0]
    assert [entry.label for entry in group.entries][-1] == "run-2"
    tied = [test["models"][1] for test in group.tests if test["interval"][0] <= 0 <= test["interval"][1]]
    assert [entry.label for entry in group.entries][1] in tied  # it gave the same answers
    said = comparing.sentence(group)
    assert said.startswith(f"{group.entries[0].label} reaches the best accuracy")
    assert all(name in said for name in tied)
    assert "within chance of it" in said


def test_samples_on_which_they_differ_are_shown_with_every_answer(page):
    found = page[0].groups[0]
    differ, shown = comparing.contested(found.together, {})
    predicted = [entry.outcomes.predicted for entry in found.together]
    assert differ == sum(len(set(said)) > 1 for said in zip(*predicted, strict=True))
    assert all(sum(count for _, count, _ in one.said) == 3 for one in shown)
    assert f"answer differently on {differ} of 200" in page[2].words


@pytest.mark.usefixtures("undrawn")
def test_runs_of_other_tasks_and_samples_are_told_apart(three, tmp_path):
    write_run(tmp_path / "numbers", "regression", n=100, names=["height"])
    write_run(tmp_path / "others", n=150, seed=4)
    found, path = compare([three[0], tmp_path / "numbers", tmp_path / "others"], tmp_path / "page.html")
    assert [group.metric for group in found.groups] == ["accuracy", "rmse"]
    assert any("don't measure the same" in note for note in found.notes)
    assert any("same samples" in note for note in found.notes)
    assert found.groups[0].tests == []
    assert "RMSE" in read(path).words


def test_names_with_html_do_no_harm(tmp_path):
    for number in range(2):
        write_run(tmp_path / f"<b>run&{number}", n=160, names=HOSTILE, seed=0, weaker=number == 1)
    _, path = compare(sorted(tmp_path.iterdir()), tmp_path / "page.html")
    found = read(path)
    assert not found.mismatched
    assert "<script>alert" not in path.read_text()
    assert sum(tag == "script" for tag, _ in found.tags) == 1
    assert "<b>run&0" in found.words


@pytest.mark.usefixtures("undrawn")
def test_forty_runs_fit_on_a_page(three, tmp_path):
    runs = []
    for number in range(40):
        (tmp_path / f"copy-{number:02d}").mkdir()
        for name in ("summary.json", "recipe.resolved.yaml", "student.json"):
            shutil.copy(three[number % 3] / name, tmp_path / f"copy-{number:02d}" / name)
        runs.append(tmp_path / f"copy-{number:02d}")
    found, path = compare(runs, tmp_path / "page.html")
    assert len(found.groups[0].entries) == 40
    text = read(path).words
    assert all(run.name in text for run in runs)
    assert path.stat().st_size < 2_000_000


@pytest.mark.parametrize(
    ("change", "words_said"),
    [
        (lambda text: text[: len(text) // 2], "can't be read"),
        (lambda text: "[]", "can't be read"),
        (lambda text: text.replace('"accuracy": 0.', '"accuracy": "high", "was": 0.', 1), "models.student.metrics.accuracy is 'high'"),
        (lambda text: text.replace('"primary"', '"primry"', 1), "primary is missing"),
        (lambda text: text.replace('"task": "classification"', '"task": "cooking"', 1), "task is 'cooking'"),
        (lambda text: None, "not finished"),
    ],
)
@pytest.mark.usefixtures("undrawn")
def test_a_damaged_or_edited_summary_is_one_message_that_names_the_file(three, tmp_path, change, words_said):
    run = tmp_path / "run"
    shutil.copytree(three[0], run)
    text = change((run / "summary.json").read_text())
    (run / "summary.json").unlink() if text is None else (run / "summary.json").write_text(text)
    for job in (lambda: compare([three[1], run], tmp_path / "page.html"), lambda: rewrite(run)):
        with pytest.raises(RunError, match=re.escape(words_said)) as refused:
            job()
        assert str(run) in str(refused.value.where)
    assert not (tmp_path / "page.html").exists()


@pytest.mark.usefixtures("undrawn")
def test_a_folder_without_its_other_files_is_compared_and_says_so(three, tmp_path):
    (tmp_path / "bare").mkdir()
    shutil.copy(three[0] / "summary.json", tmp_path / "bare" / "summary.json")
    found, _ = compare([three[1], tmp_path / "bare"], tmp_path / "page.html")
    assert any("bare: predictions/student.npz is not there" in note for note in found.notes)


@pytest.mark.usefixtures("undrawn")
def test_a_file_that_is_no_page_of_ours_is_left_alone(three, tmp_path):
    (tmp_path / "thesis.html").write_text("years of work")
    with pytest.raises(RunError, match="no page of transfuse's"):
        compare(three, tmp_path / "thesis.html")
    assert (tmp_path / "thesis.html").read_text() == "years of work"
    with pytest.raises(RunError, match=r"written as \.html"):
        compare(three, tmp_path / "page.pdf")
    (tmp_path / "folder.html").mkdir()
    for name, said in (("folder.html", "can't be replaced: Is a directory"), ("x" * 300 + ".html", "File name too long")):
        with pytest.raises(RunError, match=said):
            compare(three, tmp_path / name)
    _, path = compare(three[:1], tmp_path / "page.html")
    compare(three[:2], path)  # its own page is replaced


@pytest.mark.usefixtures("undrawn")
def test_the_commands_write_pages_and_exit_codes(three, tmp_path, capsys):
    assert command(["compare", *map(str, three), "--out", str(tmp_path / "page.html")]) == 0
    assert "run-2" in capsys.readouterr().out
    assert command(["compare", str(three[0]), str(tmp_path / "nowhere")]) == 2
    assert "no such run folder" in capsys.readouterr().err
    run = tmp_path / "run"
    shutil.copytree(three[0], run)
    assert command(["report", str(run)]) == 0
    assert (run / "report.html").exists()
    assert (run / "README.md").exists()


@pytest.mark.usefixtures("undrawn")
def test_equal_folder_names_are_told_apart_by_those_above(three, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(three[0], tmp_path / name / "run")
    found, _ = compare([tmp_path / "a" / "run", tmp_path / "b" / "run"], tmp_path / "page.html")
    assert list(found.runs) == ["a/run", "b/run"]


def test_the_front_is_what_nothing_cheaper_surpasses():
    points = [(1.0, 5.0), (2.0, 7.0), (2.0, 6.0), (3.0, 6.5), (4.0, 9.0)]
    assert front_of(points, higher=True) == [0, 1, 4]
    assert front_of(points, higher=False) == [0]


def test_nested_recipes_are_flattened_by_name():
    assert flattened({"a": {"b": 1}, "objectives": [{"kd": {"t": 2}}, "mcc"], "list": [1, 2]}) == {
        "a.b": 1, "objectives.kd.t": 2, "objectives.mcc": "as it is", "list": [1, 2],
    }  # fmt: skip


def as_seeds(runs, path, value):
    """A parent folder of runs with other seeds: figures over them, and no answers of its own."""
    path.mkdir()
    summaries = [json.loads((run / "summary.json").read_text()) for run in runs]
    inner = zip(runs, summaries, strict=True)
    spread = {"n": len(runs), "mean": value, "std": 0.01, "interval": [value - 0.02, value + 0.02], "min": value, "max": value}
    parent = {
        **{key: summaries[0][key] for key in ("job", "task", "primary")},
        "series": "seeds",
        "runs": [{"name": run.name, "path": run.name, "state": "finished", "differs": {}, **found} for run, found in inner],
        "aggregate": {"n": len(runs), "models": {"student": {"metrics": {"accuracy": spread}}}, "teachers": {}, "transfer": {}},
    }  # fmt: skip
    (path / "summary.json").write_text(json.dumps(parent))
    shutil.copy(runs[0] / "recipe.resolved.yaml", path / "recipe.resolved.yaml")
    return path


@pytest.mark.usefixtures("undrawn")
def test_nobody_is_called_within_chance_of_a_mean_that_was_not_tested(three, tmp_path):
    parent = as_seeds(three[:2], tmp_path / "seeds", 0.999)
    found, path = compare([parent, *three], tmp_path / "page.html")
    group = found.groups[0]
    said = comparing.sentence(group)
    assert group.tests[0]["models"][0] == group.entries[1].label
    assert said.startswith("seeds (mean of 2) reaches the best accuracy")
    assert "within chance of it can't be said" in said
    assert f"Against {group.entries[1].label}, on the same samples" in read(path).words
    row = next(row for row in comparing.rows(group) if row["model"] == "seeds (mean of 2)")
    assert row["budget"] == "latency met in 0 of 2"  # as the recipe has it, from the runs' figures


@pytest.mark.usefixtures("undrawn")
def test_a_series_shows_the_answers_of_the_run_that_it_hands_on_and_misses_none_of_its_own(three, tmp_path):
    parent = tmp_path / "sweep"
    shutil.copytree(three[0], parent / "runs" / "trial_0")
    one = json.loads((three[0] / "summary.json").read_text())
    entry = {"name": "trial_0", "path": "runs/trial_0", "state": "finished", "differs": {}}
    (parent / "summary.json").write_text(
        json.dumps({**one, "job": "sweep", "series": "sweep", "chosen": {"run": "trial_0"}, "runs": [entry]})
    )
    for name in ("recipe.yaml", "recipe.resolved.yaml", "env.json", "reasons.json"):
        shutil.copy(three[0] / name, parent / name)
    found, _ = compare([parent, three[2]], tmp_path / "page.html")
    assert not any("is not there" in note for note in found.notes)
    assert len(found.groups[0].together) == 2


@pytest.mark.usefixtures("undrawn")
def test_a_file_that_many_runs_miss_is_named_once(three, tmp_path):
    for number in range(4):
        (tmp_path / f"bare-{number}").mkdir()
        shutil.copy(three[0] / "summary.json", tmp_path / f"bare-{number}" / "summary.json")
    found, _ = compare(sorted(tmp_path.glob("bare-*")), tmp_path / "page.html")
    said = [note for note in found.notes if "predictions/student.npz" in note]
    assert said == ["predictions/student.npz is not there (4 runs: bare-0, bare-1, bare-2 and 1 more)."]


@pytest.mark.usefixtures("undrawn")
def test_links_stay_when_page_and_runs_are_moved_together(three, tmp_path):
    for run in three[:2]:
        shutil.copytree(run, tmp_path / "my runs" / run.name)
        (tmp_path / "my runs" / run.name / "report.html").touch()
    _, path = compare(sorted((tmp_path / "my runs").iterdir()), tmp_path / "pages" / "page.html")
    links = [attributes["href"] for tag, attributes in read(path).tags if tag == "a" and "download" not in attributes]
    assert links == ["../my%20runs/run-0/report.html", "../my%20runs/run-1/report.html"]


@pytest.mark.usefixtures("undrawn")
def test_an_evaluation_from_before_top_k_and_with_fewer_severities_is_drawn(three, tmp_path):
    errors = {"fog": [0.2, 0.4], "snow": [0.1, 0.2]}
    robust = {"clean_error": 0.1, "errors": errors, "mean_corruption_error": 0.225, "mean_increase": 0.125}
    run = tmp_path / "run"
    shutil.copytree(three[0], run)
    summary = json.loads((run / "summary.json").read_text())
    models = {"student": robust}
    summary["robustness"] = {"definition": "", "samples": 9, "severities": [1, 5], "models": models}
    (run / "summary.json").write_text(json.dumps(summary))
    found, path = compare([run, three[1]], tmp_path / "page.html")
    assert found.groups[0].entries[0].severities == [1, 5]
    assert "Means over severities 1, 5" in read(path).words


def test_names_are_cut_in_their_middle_because_their_ends_tell_them_apart():
    names = [f"temperature_{k}_widths_{w}_seed_{s}" for k, w, s in ((6, 192, 21), (6, 256, 29), (1, 64, 0))]
    assert clipped(names, 26) == ["temperature_6…_192_seed_21", "temperature_6…_256_seed_29", "temperature_1…hs_64_seed_0"]
    assert {len(name) for name in clipped(names, 26)} == {26}
