"""Figures over runs, against numpy and scipy."""

import numpy as np
import pytest
from scipy import stats

from transfuse.evaluate.aggregate import over_runs, spread

VALUES = [0.81, 0.84, 0.79, 0.9]


def summaries():
    return [
        {
            "models": {
                "student": {"metrics": {"accuracy": value, "auroc": None}},
                "control": {"metrics": {"accuracy": value - 0.01 * number}},
            },
            "teachers": {"big": {"metrics": {"accuracy": 0.95}}},
            "transfer": {"gain": 0.01 * number, "gain_interval": [0, 1], "kl": 0.2 + value, "reasons": {"x": "y"}},
        }
        for number, value in enumerate(VALUES)
    ]


def test_a_spread_is_numpys_and_its_interval_is_scipys():
    found = spread(VALUES)
    low, high = stats.t.interval(0.95, len(VALUES) - 1, loc=np.mean(VALUES), scale=stats.sem(VALUES))
    assert found["n"] == 4
    assert found["mean"] == pytest.approx(np.mean(VALUES))
    assert found["std"] == pytest.approx(np.std(VALUES, ddof=1))
    assert found["interval"] == pytest.approx([low, high])
    assert (found["min"], found["max"]) == (0.79, 0.9)


def test_the_paired_gain_has_the_interval_of_the_differences_and_not_of_two_samples():
    runs = summaries()
    found = over_runs(runs)
    student = [run["models"]["student"]["metrics"]["accuracy"] for run in runs]
    control = [run["models"]["control"]["metrics"]["accuracy"] for run in runs]
    paired = stats.ttest_rel(student, control).confidence_interval(0.95)
    assert found["transfer"]["gain"]["interval"] == pytest.approx([paired.low, paired.high])
    assert found["transfer"]["gain"]["mean"] == pytest.approx(np.mean(student) - np.mean(control))


def test_what_is_no_number_or_undefined_is_left_out_and_counted_so():
    runs = summaries()
    runs[1]["models"]["student"]["metrics"]["auroc"] = 0.5
    del runs[2]["models"]["control"]
    found = over_runs(runs)
    assert set(found["transfer"]) == {"gain", "kl"}
    assert found["models"]["student"]["metrics"]["auroc"]["n"] == 1
    assert found["models"]["control"]["metrics"]["accuracy"]["n"] == 3
    assert found["teachers"]["big"]["metrics"]["accuracy"]["std"] == 0
    assert found["n"] == 4


def test_p_values_are_not_averaged():
    runs = summaries()
    for run in runs:
        run["transfer"] |= {"mcnemar": 0.4, "over_ensemble_mcnemar": 0.2}
    assert set(over_runs(runs)["transfer"]) == {"gain", "kl"}


def test_a_single_run_has_no_spread_and_says_why():
    found = over_runs(summaries()[:1])
    accuracy = found["models"]["student"]["metrics"]["accuracy"]
    assert (accuracy["std"], accuracy["interval"], accuracy["mean"]) == (None, None, 0.81)
    assert set(found["reasons"]) == {"std", "interval"}
