"""Verdicts on budgets: met, missed, or not measured, of one model and over runs."""

from transfuse.evaluate import budget


def block(size, p50):
    return {"bytes": size, "latency_ms": None if p50 is None else {"batch_1": {"p50": p50, "p95": 2 * p50}}}


def test_only_limits_that_were_asked_for_have_a_verdict():
    assert budget.verdicts({"bytes": None, "latency_ms": None, "threads": 1}, block(10, 1.0)) == {}
    assert budget.verdicts({"bytes": 10, "threads": 1}, block(10, 1.0)) == {"bytes": {"asked": 10, "is": 10, "met": True}}


def test_what_was_not_measured_is_neither_met_nor_missed():
    assert budget.verdicts({"latency_ms": 1.0}, block(10, None)) == {"latency_ms": {"asked": 1.0, "is": None, "met": None}}


def test_several_runs_meet_a_budget_when_each_does():
    found = [budget.verdicts({"bytes": 20, "latency_ms": 1.0}, block(10, p50)) for p50 in (0.5, 1.5, 0.7)]
    assert budget.over_runs(found) == {
        "bytes": {"asked": 20, "is": 10, "met": True, "met_in": 3, "of": 3},
        "latency_ms": {"asked": 1.0, "is": 1.5, "met": False, "met_in": 2, "of": 3},
    }
    assert budget.over_runs([{}, {}]) == {}
    assert budget.over_runs([budget.verdicts({"latency_ms": 1.0}, block(1, None))])["latency_ms"]["met"] is None
