"""What a report says of trainings on several labelled sets."""

from transfuse.report import asked, flow, hub, together

RECIPE = {
    "job": "together",
    "sources": {"letters": {"source": "torchvision:EMNIST@root"}, "parity": {"source": "arrays:parity.npz"}},
    "target": {"source": "torchvision:MNIST@root"},
    "student": {"source": "builtin:mlp"},
    "heads": {"letters": "own", "parity": "shared"},
    "source_weight": {"letters": 0.5, "parity": {"linear": {"start": 1, "end": 0}}},
    "target_share": 0.5,
}


def test_sources_are_listed_by_name_with_their_weights_and_heads():
    found = dict(asked.lines(RECIPE))
    assert (found["Source letters"], found["Target"]) == ("torchvision:EMNIST@root", "torchvision:MNIST@root")
    told = dict(together.lines(RECIPE))
    assert told["Weights of the sources"] == "letters 0.5, parity linear (start 1, end 0)"
    assert told["Heads"] == "letters: its own; parity: that of the target"


def test_one_source_is_told_as_it_always_was():
    recipe = {**RECIPE, "source": "idx:a", "sources": {}, "heads": "own", "source_weight": "uncertainty"}
    told = dict(together.lines(recipe))
    assert told["Weight of the source"] == "learnt, as is the target's (uncertainty)"
    assert list(together.sets(recipe)) == ["source", "target"]


def test_sources_are_data_and_no_models_in_the_flow_and_on_the_hub():
    boxes = [box for row in flow.rows_of(RECIPE) for box in row]
    assert [box.kind for box in boxes[:3]] == ["source letters", "source parity", "target domain"]
    assert not any("model" in box.kind for box in boxes)
    assert hub._bases({**RECIPE, "sources": {"a": {"source": "hf:somebody/data"}}}) == []


def test_tasks_without_a_figure_say_why():
    summary = {"tasks": {"parity": {"head": "own", "models": {}, "reason": "its weight is 0"}}}
    assert together.tasks(summary, "accuracy") == ["On the test part of 'parity' nothing was measured: its weight is 0."]
