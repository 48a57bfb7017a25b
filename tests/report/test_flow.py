"""The drawing of a job: its boxes and arrows from the recipe, well formed, whatever names are in it."""

import xml.etree.ElementTree as ElementTree

import pytest

from transfuse.report import flow

DISTILL = {
    "data": {"source": "images:./photos"},
    "teachers": {"big": {"source": "timm:resnet50.a1_in1k"}, "small": {"source": "file:<r56>&.th"}},
    "student": {"source": "builtin:resnet20"},
    "objectives": [{"cross_entropy": {"weight": 0.1}}, {"kd": {"weight": 0.9}}, {"fitnet": {"weight": 1.0, "teacher": "big"}}],
    "control": "reuse",
}


def test_teachers_feed_the_terms_that_listen_to_them_and_data_the_others():
    sources, terms, learner = flow.rows_of(DISTILL)
    assert [box.kind for box in sources] == ["data", "teacher big", "teacher small"]
    assert [box.feeds for box in sources] == [[0], [1, 2], [1]]
    assert [box.text for box in terms] == ["weight 0.1", "weight 0.9", "weight 1"]
    assert [(box.kind, box.dashed) for box in learner] == [("student", False), ("control", True)]


def test_of_two_domains_labels_come_from_the_source():
    recipe = {
        "job": "adapt", "source": {"source": "idx:./mnist"}, "target": {"source": "bundled:digits"}, "student": {"source": "builtin:mlp"},
        "objectives": [{"cross_entropy": {"weight": 1}}, {"coral": {"weight": 1}}],
    }  # fmt: skip
    sources, _, _ = flow.rows_of(recipe)
    assert [box.feeds for box in sources] == [[0, 1], [1]]


def test_the_drawing_is_well_formed_and_has_only_the_pages_colours():
    drawn = str(flow.draw(DISTILL))
    tree = ElementTree.fromstring(drawn)
    texts = [node.text for node in tree.iter("text")]
    assert "file:<r56>&.th" in texts
    assert "#" not in drawn.replace("&#", "")
    assert len(list(tree.iter("rect"))) == 8
    assert len(list(tree.iter("path"))) == 2 * (1 + 2 + 1 + 3)


@pytest.mark.parametrize(
    "recipe",
    [{}, {"data": 3, "student": None}, {"objectives": "auto"}, {"data": "x", "objectives": [3, None, {"kd": None}], "student": "y"}],
)
def test_a_recipe_that_was_edited_by_hand_does_no_harm(recipe):
    drawn = flow.draw(recipe)
    assert drawn is None or ElementTree.fromstring(str(drawn)) is not None


def test_many_boxes_are_counted():
    recipe = DISTILL | {"teachers": {f"t{number}": {"source": "file:x"} for number in range(12)}}
    sources = flow.rows_of(recipe)[0]
    assert len(sources) == 6
    assert sources[-1].kind == "8 more"
