"""The diagnosis of a merge as tables."""

from transfuse.report import merging

PATH = {
    "positions": [0.0, 0.5, 1.0],
    "losses": [0.1, 1.5, 0.2],
    "ignorant": 2.3,
    "barrier": 1.35,
    "variance_ratios": {"one": 0.4, "two": 0.9},
    "repaired": None,
    "lost halfway": 0.6364,
}
PAIR = {
    "sources": ["a", "b"],
    "same weights": False,
    "sign conflicts": 0.49,
    "same initial weights": False,
    "cosine": 0.012,
    "units correspond in": 0.0,
    "path": PATH,
    "path after alignment": {**PATH, "losses": [0.1, 0.3, 0.2], "repaired": 0.25, "variance_ratios": {"one": 0.8}},
}


def summary(*pairs):
    return {"fusion": {"diagnosis": {"verdict": "align", "reason": "", "pairs": list(pairs)}}}


def test_path_variance_and_sign_conflicts_are_shown():
    found = {heading: rows for heading, _, rows in merging.tables(summary(PAIR))}
    [pair] = found["Whether the weights can be merged"]
    assert pair["same initial weights"] == "no"
    assert pair["sign conflicts"] == "49.00%"
    assert pair["lost halfway"] == "63.64%"
    plain, aligned = found["The loss between the sources"]
    assert plain["at 0.5"] == "1.5"
    assert aligned["line"] == "a to b, units aligned"
    assert aligned["halfway, units repaired"] == "0.25"
    assert found["What becomes of activations halfway"][1] == {"layer": "two", "a to b": "0.9", "a to b, units aligned": ""}


def test_without_labels_nothing_but_the_weights_is_shown():
    [(heading, _, rows)] = merging.tables(summary({**PAIR, "path": None, "path after alignment": None}))
    assert heading == "Whether the weights can be merged"
    assert rows[0]["barrier"] == "not measured"


def test_more_than_two_sources_are_said_to_be_compared_with_the_first():
    _, note, rows = merging.tables(summary(PAIR, {**PAIR, "sources": ["a", "c"], "same initial weights": None}))[0]
    assert "compared with the first, a" in note
    assert rows[1]["same initial weights"] == "can't be told"


def test_of_many_layers_those_that_collapse_most_are_shown():
    ratios = {f"layer{number}": number / 100 for number in range(60)}
    rows = merging.tables(summary({**PAIR, "path": {**PATH, "variance_ratios": ratios}, "path after alignment": None}))[2][2]
    assert [row["layer"] for row in rows] == [f"layer{number}" for number in range(merging.MOST_LAYERS)]


def test_fusions_without_a_diagnosis_have_no_such_table():
    assert merging.tables({"fusion": {}}) == []
