"""What sources are worth to fused features, in rows; what an amalgamation's page says."""

import pytest

from transfuse.report import amalgamation, fused_features, words

CONTRIBUTIONS = {"alone": {"a": 0.7, "b": 0.8}, "leave_one_out": {"a": 0.05, "b": 0.15}, "shapley": {"a": 0.3, "b": 0.45}}
WAY = {
    "name": "features.weighted_sum",
    "dims": {"a": 64, "b": 1280},
    "alpha": {"a": 0.8, "b": 1.2},
    "shares": {"a": {"mean": 0.4, "std": 0.0}, "b": {"mean": 0.6, "std": 0.0}},
    "contributions": CONTRIBUTIONS,
}


def fusion_of(way, chosen="features.weighted_sum"):
    return {"primary": {"name": "accuracy"}, "fusion": {"chosen": chosen, "ways": [way]}}


def test_each_source_has_a_row_with_its_weight_and_its_worth():
    first, second = fused_features.rows(fusion_of(WAY))
    assert first == {
        "source": "a",
        "features": "64",
        "alpha": "0.800",
        "listened to": "40.00%",
        "alone": "70.00%",
        "left out": words.difference("accuracy", 0.05),
        "Shapley's share": words.difference("accuracy", 0.3),
    }
    assert (second["features"], second["alone"]) == ("1,280", "80.00%")


def test_ways_without_such_figures_have_no_rows():
    assert fused_features.rows(fusion_of(WAY, "outputs.weighted")) == []
    assert fused_features.rows(fusion_of({"name": "features.concat", "dims": {"a": 3}}, "features.concat")) == []
    assert [row["source"] for row in fused_features.rows(fusion_of({**WAY, "shares": None, "alpha": None}))] == ["a", "b"]


def amalgamated(gain=None, bounds=None, labels=()):
    accuracies = {"student": 0.95, "ensemble": 0.96, **({} if gain is None else {"control": 0.955})}
    return {
        "job": "fuse",
        "primary": {"name": "accuracy"},
        "models": {name: {"metrics": {"accuracy": value}} for name, value in accuracies.items()},
        "transfer": {"gain": gain, "gain_interval": bounds},
        "sources": {"a": {"metrics": {"accuracy": 0.99}}, "b": {"metrics": {"accuracy": 0.98}}},
        "amalgamation": {"classes": {"a": ["0", "1"], "b": ["1", "2"]}, "count": 3, "labels": list(labels)},
    }


@pytest.mark.parametrize(("bounds", "tone"), [([-0.01, 0.002], "good"), ([-0.02, -0.001], "none"), ([-0.2, 0.01], "none")])
def test_a_student_that_comes_up_to_joint_training_is_a_success_and_says_what_it_did_without(bounds, tone):
    verdict = words.verdict(amalgamated(-0.005, bounds))
    assert verdict.tone == tone
    assert "saw no training label and has all 3 classes, reaches 95.00%" in verdict.sentence
    assert "95.50% of joint training on all labels, the upper bound" in verdict.sentence
    assert any("a knows 0, 1: 99.00%" in detail for detail in verdict.details)


def test_labels_that_were_learnt_from_and_a_missing_control_are_said():
    verdict = amalgamation.verdict(amalgamated(labels=("cross_entropy",)))
    assert "learns from labels, too" in verdict.sentence
    assert "upper bound" not in verdict.sentence
    assert "an upper bound" in words.control_is(amalgamated(0.0, [0.0, 0.0]))
