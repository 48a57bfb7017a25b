"""The page, card and rows of jobs of several runs: from summaries alone, whatever they hold."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from transfuse.report import series, series_card, series_page

EVIL = '<script>alert("x")</script>'


def model(value: float, **more) -> dict:
    latency = {"runtime": "torch", "threads": 1, "dtype": "fp32", "batch_1": {"p50": 0.5, "p95": 0.6}}
    cost = {"parameters": 1000, "macs": 900, "bytes": 4000, "latency_ms": latency}
    return {
        "metrics": {"accuracy": value, "nll": 1.0 - value},
        "intervals": {"accuracy": [value - 0.05, value + 0.05]},
        "samples": 100,
        **cost,
        **more,
    }


def run(name: str, value: float, differs: dict, **more) -> dict:
    return {
        "name": name,
        "path": f"runs/{name}",
        "state": "finished",
        "differs": differs,
        "models": {"student": model(value), "control": model(value - 0.02)},
        "teachers": {"teacher": model(0.95, parameters=90_000)},
        "transfer": {"gain": 0.02, "gain_interval": [-0.01, 0.05]},
        "teacher_forwards": 0,
        "seconds": {"train": 1.0, "total": 2.0},
        **more,
    }


def spread(mean: float, std: float | None, interval: list | None) -> dict:
    return {"n": 3, "mean": mean, "std": std, "interval": interval, "min": mean - 0.01, "max": mean + 0.01}


def aggregate(gain: dict | None) -> dict:
    metrics = {
        "student": {"metrics": {"accuracy": spread(0.9, 0.01, [0.88, 0.92])}},
        "control": {"metrics": {"accuracy": spread(0.88, 0.01, [0.86, 0.9])}},
    }
    return {"n": 3, "models": metrics, "teachers": {}, "transfer": {"gain": gain} if gain else {}}


def summary(kind: str, runs: list[dict], **more) -> dict:
    last = runs[-1]
    return {
        "job": "distill",
        "task": "classification",
        "seed": 0,
        "primary": {"name": "accuracy", "higher_is_better": True},
        "series": kind,
        "runs": runs,
        "teacher_forwards": 10,
        "seconds": {"train": 1.0, "total": 2.0},
        "models": last["models"],
        "teachers": last["teachers"],
        "transfer": last["transfer"],
        "aggregate": aggregate(spread(0.02, 0.01, [0.01, 0.03])),
        **more,
    }


def point(entry: dict, value: float, front: bool, chosen: bool) -> dict:
    cost = {key: entry["models"]["student"][key] for key in ("parameters", "macs", "bytes", "latency_ms")}
    return {"runs": [entry["name"]], "differs": entry["differs"], "validation": value, "cost": cost, "front": front, "chosen": chosen}


def sweep(count: int = 3) -> dict:
    key = f"student.options.{EVIL}"
    runs = [
        run(f"trial_{n}", 0.8 + n / 1000, {key: f"{EVIL}{n}", "seed": n}, validation={"accuracy": 0.8 + n / 1000}) for n in range(count)
    ]
    points = [point(entry, entry["validation"]["accuracy"], entry is runs[-1], entry is runs[-1]) for entry in runs]
    runs[0] = {**runs[0], "state": "pruned", "stopped_at": 3.25, "models": None, "validation": None}
    runs[1] = {**runs[1], "state": "failed", "reason": EVIL, "models": None, "validation": None}
    selection = {"by": "validation", "metric": "accuracy", "higher_is_better": True, "sampler": "grid"}
    chosen = {**points[-1], "run": runs[-1]["name"]}
    return summary("sweep", runs, job="sweep", selection=selection, chosen=chosen, front=[points[-1]], configurations=points[2:])


def generations() -> dict:
    runs = [run("generation_0", 0.8, {"seed": 0}), run("generation_1", 0.85, {"seed": 1, "teacher": "generation_0"})]
    found = summary("generations", runs, job="born_again")
    found["models"] = {**found["models"], "ensemble": model(0.9), "control_ensemble": model(0.88)}
    found["transfer"] = {**found["transfer"], "ensemble_gain": 0.02, "ensemble_gain_interval": [0.0, 0.04]}
    return found


def chain() -> dict:
    runs = [run(name, 0.9, {"student": EVIL, "teacher": "teacher"}) for name in ("assistant_1", "student", "without_assistants")]
    found = summary("chain", runs, job="assistants", aggregate=None)
    found["models"] = {**found["models"], "without_assistants": model(0.84)}
    found["transfer"] = {**found["transfer"], "over_plain": 0.06, "over_plain_interval": [0.01, 0.11]}
    return found


def seeds(count: int = 3) -> dict:
    found = summary("seeds", [run(f"seed_{n}", 0.9, {"seed": n}) for n in range(count)])
    return {key: value for key, value in found.items() if key not in ("models", "teachers", "transfer")}


@pytest.fixture
def folder(tmp_path):
    """A function from a summary to the folder that holds it."""

    def make(content: dict) -> Path:
        (tmp_path / "summary.json").write_text(json.dumps(content))
        (tmp_path / "recipe.resolved.yaml").write_text("data: {source: 'bundled:digits'}\nstudent: {source: 'builtin:mlp'}\n")
        return tmp_path

    return make


class Tags(HTMLParser):
    """Collects elements and checks that they are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        if tag not in ("meta", "br", "wbr", "img", "path", "use", "rect", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        if tag in ("path", "use", "rect"):
            return
        assert self.open.pop() == tag


def test_budgets_are_shown_of_the_student_and_counted_over_seeds(folder):
    verdict = {"asked": 5000, "is": 4000, "met": True}
    found = {**chain(), "budget": {"bytes": verdict}}
    text = series_page.write(folder(found)).read_text()
    assert "Size: 4 kB, at most 5 kB was asked for: met." in text
    counted = {"asked": 0.4, "is": 0.5, "met": False, "met_in": 2, "of": 3}
    several = seeds()
    several["budget"] = {"latency_ms": counted}
    several["runs"][0]["budget"] = {"latency_ms": {"asked": 0.4, "is": 0.5, "met": False}}
    path = folder(several)
    said = "at most 0.4 ms was asked for; met in 2 of 3 runs, of which the largest has 0.5 ms."
    assert said in series_page.write(path).read_text()
    assert said in series_card.write(path).read_text()
    assert [row["budget"] for row in series.rows(several)] == ["latency missed", "", ""]


@pytest.mark.parametrize("make", [seeds, generations, chain, sweep])
def test_a_page_is_whole_offline_and_harmless(folder, make):
    content = make()
    path = folder(content)
    text = series_page.write(path).read_text()
    tags = Tags()
    tags.feed(text)
    assert not tags.open
    assert "<script>alert" not in text
    assert not re.findall(r'(?:src|href)="https?://', text)
    assert "svg" in tags.seen
    embedded = re.search(r'<script type="application/json" id="summary">(.*?)</script>', text, re.S)
    assert embedded
    assert {**json.loads(embedded[1])} == {"models": {}, **content}
    card = series_card.write(path).read_text()
    header, body = card.removeprefix("---\n").split("---\n", 1)
    assert "library_name: transfuse" in header
    assert body.lstrip().startswith("# ")
    assert "<script>" not in card


@pytest.mark.parametrize(
    ("gain", "tone", "words"),
    [
        (
            spread(0.02, 0.01, [0.01, 0.03]),
            "good",
            "Over 3 seeds the student beats its control by 2.00 points of accuracy (95% interval +1.00 to +3.00)",
        ),
        (spread(-0.02, 0.01, [-0.03, -0.01]), "bad", "does worse than its control by 2.00 points"),
        (spread(0.02, 0.05, [-0.05, 0.09]), "none", "within chance of its control: 90.00% ± 1.00 against 88.00% ± 1.00"),
        (spread(0.02, None, None), "none", "without an interval"),
        (None, "none", "Over 3 seeds the student reaches accuracy 90.00% ± 1.00"),
    ],
)
def test_the_verdict_over_seeds_follows_the_interval_of_the_paired_gain(gain, tone, words):
    found = series.verdict({**seeds(), "aggregate": aggregate(gain)})
    assert found.tone == tone
    assert words in found.sentence


def test_the_verdict_of_a_chain_is_about_the_assistants():
    found = series.verdict(chain())
    assert found.tone == "good"
    assert found.sentence.startswith("With 1 assistant the student beats the one taught by the teacher alone by 6.00 points of accuracy")


def test_a_sweeps_rows_show_test_figures_only_where_the_summary_has_them():
    rows = series.rows(sweep())
    assert [row["state"] for row in rows] == ["stopped at epoch 3.2", "failed", "finished"]
    assert [bool(row["test accuracy"]) for row in rows] == [False, False, True]
    assert [row["front"] for row in rows] == ["", "", "yes"]
    details = " ".join(series.verdict(sweep()).details)
    assert "1 of 3 trials ran to the end; 1 stopped early, with a validation below the median of the others; 1 failed." in details


def test_figures_of_the_aggregate_are_in_their_own_units():
    first, others = series.spread_rows(generations())
    assert {row["figure"]: row["mean"] for row in first} == {"student: accuracy": "90.00%", "control: accuracy": "88.00%", "gain": "+2.00"}
    assert others == []
    assert series.spread_rows(chain()) == ([], [])


@pytest.mark.parametrize("make", [seeds, sweep])
def test_four_hundred_runs_are_one_page(folder, make):
    text = series_page.write(folder(make(400))).read_text()
    assert text.count("<tr>") >= 400
    assert len(text) < 4_000_000
