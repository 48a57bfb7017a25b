"""A fusion in words and rows: the figures of summary.json, and nothing else."""

from transfuse.report import fusion, table, words


def model(accuracy, size=None):
    latency = {"batch_1": {"p50": 1.5}} if size else None
    return {"metrics": {"accuracy": accuracy}, "intervals": {}, "samples": 200, "parameters": size, "bytes": size, "latency_ms": latency}


def summary(gain=0.05, interval=(0.01, 0.09), **fused):
    return {
        "job": "fuse",
        "task": "classification",
        "primary": {"name": "accuracy", "higher_is_better": True},
        "models": {"student": model(0.9, 4000), "control": model(0.85, 2000), "ensemble": model(0.88, 4000)},
        "sources": {"<b>a": model(0.85, 2000), "c": model(0.8, 2000)},
        "transfer": {
            "gain": gain,
            "gain_interval": list(interval),
            "agreement": 0.95,
            "over_ensemble": 0.02,
            "over_ensemble_interval": [-0.01, 0.05],
        },
        "fusion": {
            "chosen": "outputs.weighted",
            "distilled": False,
            "best_single": "<b>a",
            "chosen_by": "accuracy",
            "ways": [
                {"name": "single c", "validation": 0.8, "test": 0.79, "bytes": 2000, "latency_ms": 0.5},
                {
                    "name": "outputs.weighted",
                    "validation": 0.91,
                    "test": 0.9,
                    "bytes": 4000,
                    "latency_ms": 1.5,
                    "weights": {"<b>a": 0.7, "c": 0.3},
                },
                {"name": "weights.mean", "validation": None, "test": None, "bytes": None, "latency_ms": None, "why": "not\n alike"},
            ],
            "contributions": {"leave_one_out": {"<b>a": 0.03, "c": -0.01}, "shapley": {"<b>a": 0.5, "c": 0.3}, "one_is_right": 0.97},
            **fused,
        },
    }


def test_ways_and_sources_are_rows_with_their_figures_and_reasons():
    ways, sources = fusion.tables(summary())
    assert ways.rows[1] == {
        "way": "outputs.weighted (taken)", "validation": "91.00%", "test": "90.00%", "size": "4 kB", "latency": "1.5 ms", "why not": ""
    }  # fmt: skip
    assert ways.rows[2]["why not"] == "not alike"
    assert sources.rows[0] == {"source": "<b>a", "left out": "+3.00", "Shapley's share": "+50.00", "weight": "0.700"}
    assert fusion.tables({"job": "distill"}) == []
    assert {"source <b>a", "source c", "ensemble", "control"} <= table.models(summary()).keys()


def test_the_verdict_holds_it_against_the_best_single_source_and_the_plain_ensemble():
    found = words.verdict(summary())
    assert found.tone == "good"
    assert "beats the best single source (<b>a) by 5.00 points of accuracy" in found.sentence
    assert "within chance of the plain ensemble" in found.details[0]
    assert any("On 97.00% of the validation samples at least one source is right" in line for line in found.details)
    worse = words.verdict(summary(-0.05, (-0.09, -0.01), distilled=True))
    assert worse.tone == "bad"
    assert "a student distilled from outputs.weighted" in worse.sentence
    assert words.verdict(summary(0.0, (-0.02, 0.02))).tone == "none"
    assert "the best single source on validation, <b>a" in words.control_is(summary())
