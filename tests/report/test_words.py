"""Numbers in words, and a verdict that claims no more than the interval holds."""

import pytest

from transfuse.report import budget, table, words


def summary(gain, low, high, name="accuracy", student=0.87, control=0.85):
    def model(value):
        return {"metrics": {name: value}, "intervals": {}, "parameters": 1000, "bytes": 4000, "latency_ms": None}

    return {
        "task": "regression" if name == "rmse" else "classification",
        "primary": {"name": name, "higher_is_better": name != "rmse"},
        "models": {"student": model(student), "control": model(control)},
        "teachers": {},
        "transfer": {"gain": gain, "gain_interval": None if low is None else [low, high], "agreement": None, "kl": None},
    }


def test_a_gain_is_claimed_only_when_its_interval_lies_above_zero():
    found = words.verdict(summary(0.021, 0.008, 0.034))
    assert found.tone == "good"
    assert found.sentence == "The student beats its control by 2.10 points of accuracy (95% interval 0.80 to 3.40): 87.00% against 85.00%."


def test_an_interval_that_holds_zero_is_no_evidence():
    for low, high in ((-0.01, 0.03), (0.0, 0.03), (-0.03, 0.0)):
        found = words.verdict(summary(0.01, low, high))
        assert found.tone == "none"
        assert found.sentence.startswith("No evidence that the teacher helped")


def test_harm_is_called_harm():
    found = words.verdict(summary(-0.02, -0.03, -0.01, student=0.83))
    assert found.tone == "bad"
    assert "does worse than its control by 2.00 points of accuracy (95% interval 1.00 to 3.00)" in found.sentence


def test_errors_that_fall_are_gains():
    found = words.verdict(summary(3.2, 1.1, 5.25, "rmse", 54.3, 57.5))
    assert found.sentence == "The student beats its control by 3.2 in RMSE (95% interval 1.1 to 5.25): 54.3 against 57.5."


def test_what_can_not_be_said_is_not_said():
    without = summary(None, None, None)
    del without["models"]["control"]
    assert "can't say what the teacher was worth" in words.verdict(without).sentence
    undefined = summary(None, None, None)
    undefined["transfer"]["reasons"] = {"gain": "control: no labelled samples"}
    assert "can't be compared: control: no labelled samples" in words.verdict(undefined).sentence
    assert "without an interval" in words.verdict(summary(0.02, None, None)).sentence


def test_budgets_are_met_or_missed_by_what_was_measured():
    run = summary(0.1, 0.05, 0.2)
    run["models"]["student"]["latency_ms"] = {"batch_1": {"p50": 2.0, "p95": 3.0}}
    found = budget.lines(run, {"budget": {"bytes": 4000, "latency_ms": 1.5, "threads": 1}})
    assert [met for met, _ in found] == [True, False]
    assert budget.lines(summary(0.1, 0, 1), {"budget": {"latency_ms": 1.0}})[0][0] is None
    assert budget.lines(run, {}) == []


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 B"), (999, "999 B"), (49_400, "49.4 kB"), (1_090_000, "1.09 MB"), (3.4e12, "3.4e+03 GB"), (None, "")]
)
def test_sizes_are_decimal(value, text):
    assert words.size(value) == text


def test_the_table_leaves_out_columns_without_values():
    rows = table.rows(summary(0.1, 0.05, 0.2))
    assert list(rows[0]) == ["model", "accuracy", "parameters", "size"]
    assert rows[1] == {"model": "control", "accuracy": "85.00%", "parameters": "1,000", "size": "4 kB"}


def test_an_undefined_metric_is_called_so():
    run = summary(None, None, None)
    run["models"]["student"]["metrics"]["accuracy"] = None
    assert table.rows(run)[0]["accuracy"] == "undefined"
