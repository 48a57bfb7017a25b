"""docs/objectives.md says what cards and result files say."""

import re

import pytest
from benchmarks import objectives_table

from transfuse import objectives
from transfuse.core.card import Need
from transfuse.errors import RecipeError
from transfuse.recipe.load import from_text


def recipe(entry):
    text = f"job: distill\ndata: bundled:digits\nteacher: {{source: builtin:mlp, train: {{}}}}\nstudent: builtin:mlp\nobjectives: [{entry}]"
    return from_text(text, "docs", [])


def test_the_page_is_what_cards_and_results_make():
    committed = objectives_table.PAGE.read_text(encoding="utf-8")
    assert committed == objectives_table.page(), "run: python -m benchmarks.objectives_table"


def test_every_objective_has_one_row_with_its_paper_and_weight():
    rows = re.findall(r"^\| `(\w+)` \|.*$", objectives_table.PAGE.read_text(encoding="utf-8"), re.M)
    assert sorted(rows) == objectives.names()
    text = objectives_table.PAGE.read_text(encoding="utf-8")
    for name in objectives.names():
        card = objectives.card(name)
        row = re.search(rf"^\| `{name}` \|.*$", text, re.M)
        for fact in (card.title, card.link, f"| {card.paper_weight:g} |"):
            assert fact in row[0]


@pytest.mark.parametrize("name", objectives.names())
def test_a_smallest_entry_is_valid(name):
    entry = objectives_table.ENTRIES.get(name, (name,))[0]
    [block] = recipe(entry).objectives
    assert block.method == name


def test_every_need_has_words():
    assert set(Need.__args__) <= set(objectives_table.NEEDS)


def test_a_row_says_which_passes_of_networks_a_method_adds_to_what_was_timed():
    added = {name: words for name in objectives.names() if (words := objectives_table.also_runs(name))}
    assert sorted(added) == ["bi_tuning", "dml", "ft", "mcd", "mlld", "sskd"]
    assert added["dml"] == "every peer's own training step"
    assert added["mcd"] == "5 more passes and updates in every step"  # as it is written and in the paper: 2 + 4 updates
    assert "student and teacher on three turned copies" in added["sskd"]
    assert added["bi_tuning"].startswith("the student on a second view")
    text = objectives_table.PAGE.read_text(encoding="utf-8")
    for name, words in added.items():
        assert words in re.search(rf"^\| `{name}` \|.*$", text, re.M)[0]


def test_percentages_keep_two_digits():
    assert [objectives_table.percent(share) for share in (0.0001, 0.0021, 0.094, 0.2512, 3.1)] == ["<0.1", "0.2", "9.4", "25", "310"]


def test_an_unknown_entry_would_be_refused():
    with pytest.raises(RecipeError, match="no_such"):
        recipe("no_such")
