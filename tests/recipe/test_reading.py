"""YAML becomes plain values with line numbers, and nothing else comes through."""

import pytest
import yaml

from transfuse.errors import RecipeError
from transfuse.recipe.load import load
from transfuse.recipe.reading import Dumper, Loader, read_file, read_text, read_value


def refusal(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        read_text(text, "r.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("1E5", 1e5), ("-2e+3", -2e3), ("5e-4", 5e-4), ("1.5e-3", 1.5e-3), (".5", 0.5), ("3.", 3.0), ("+1.0", 1.0)],
)
def test_scientific_notation_is_a_number_with_and_without_a_dot(text, value):
    found = read_value(text, "override")
    assert found == value
    assert isinstance(found, float)


@pytest.mark.parametrize("text", ["e3", "1e", "1e-", "resnet1e3", "1.2.3", "-", "1e3x", "0x1e3"])
def test_what_only_resembles_a_number_stays_what_pyyaml_says(text):
    assert read_value(text, "override") == yaml.safe_load(text)


@pytest.mark.parametrize(
    "text",
    [
        "a: [1, 2, {b: null}]\nc: true",
        "a: &x {b: 1}\nc: {<<: *x, d: 2}",
        "a: |\n  two\n  lines\nb: 'quoted'",
        "a: 2026-11-21",
        "a: 0o7\nb: 1_000",
    ],
)
def test_plain_yaml_means_what_it_means_to_safe_load(text):
    assert read_text(text, "r.yaml").values == yaml.safe_load(text)


def test_lines_are_those_of_the_keys():
    document = read_text(
        "# comment\njob: distill\n\ntrain:\n  optimizer:\n    sgd: {lr: 1,\n          momentum: 2}\nobjectives:\n  - kd\n", "r.yaml"
    )
    assert document.where(("job",)) == "r.yaml:2"
    assert document.where(("train", "optimizer", "sgd", "lr")) == "r.yaml:6"
    assert document.where(("train", "optimizer", "sgd", "momentum")) == "r.yaml:7"
    assert document.where(("objectives", 0)) == "r.yaml:9"
    assert document.where(("train", "missing")) == "r.yaml:4"
    assert document.where(("missing",)) == "r.yaml"


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system ['touch pwned']", "!!python/name:os.system", "!exec x", "!!python/tuple [1]", "!!binary aGk="]
)
def test_tags_that_could_run_code_are_refused_with_their_line_and_nothing_runs(tag, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refusal(f"job: distill\ndata: {tag}\n")
    assert message.startswith("r.yaml:2: the tag ")
    assert "never runs code" in message
    assert not list(tmp_path.iterdir())


def test_a_key_that_is_there_twice_is_refused_with_both_lines():
    assert refusal("job: a\ntrain:\n  epochs: 1\n  ema: 2\n  epochs: 3\n") == (
        "r.yaml:5: the key 'epochs' is there twice\n  keep one; the first is on line 3"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("job: distill\ntrain:\n\tepochs: 1\n", "r.yaml:3: is not YAML: a tab where spaces are needed\n  indent with spaces"),
        ("job: distill\ndata: [1, 2\n", "r.yaml:3: is not YAML: "),
        ("job: distill\ndata: a: b\n", "r.yaml:2: is not YAML: mapping values are not allowed here\n  check the indentation"),
        ("a: *nowhere\n", "r.yaml:1: is not YAML: "),
        ("a: \x07\n", "r.yaml: is not YAML: "),
        ("a: 1\n---\nb: 2\n", "r.yaml:2: is not YAML: "),
        ("", "r.yaml: is empty"),
        ("# only a comment\n", "r.yaml: is empty"),
        ("- a\n- b\n", "r.yaml:1: is not a recipe: its top level has no keys"),
        ("just text\n", "r.yaml:1: is not a recipe"),
        ("? [a, b]\n: 1\n", "r.yaml:1: a key has to be a word"),
        ("a: 2026-13-45\n", "r.yaml: can't be read: "),
        ("a: &x [*x]\n", "r.yaml:1: aliases (*name) that contain themselves"),
    ],
)
def test_broken_yaml_is_named_with_file_and_line(text, expected):
    assert refusal(text).startswith(expected)


def test_aliases_that_explode_are_refused_quickly():
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    for name, before in zip("bcdefgh", "abcdefg", strict=True):
        bomb += f"{name}: &{name} [" + ", ".join([f"*{before}"] * 10) + "]\n"
    assert "far too many" in refusal(bomb)


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "near.yaml").write_text("job: distill\n")
    (tmp_path / "binary.yaml").write_bytes(b"\x80\x81\xff")
    for path, expected in [("gone.yaml", "no such file"), ("binary.yaml", "not a text file in UTF-8"), (".", "can't be read")]:
        with pytest.raises(RecipeError) as caught:
            load(tmp_path / path)
        assert str(tmp_path / path) in str(caught.value)
        assert expected in str(caught.value)
    with pytest.raises(RecipeError, match=r"near\.yaml"):
        load(tmp_path / "gone.yaml")


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbfjob: distill\n")
    assert read_file(path).values == {"job": "distill"}


@pytest.mark.parametrize(
    "value", ["1e-3", "0.1", "yes", "null", "2026-11-21", "plain", "a: b", "- x", "", "~", "1e5", "héllo", "two\nlines"]
)
def test_text_that_looks_like_something_else_survives_writing_and_reading(value):
    assert yaml.load(yaml.dump({"key": [value]}, Dumper=Dumper), Loader) == {"key": [value]}


@pytest.mark.parametrize("text", ["[" * 5000, "a: " + "{a: " * 3000 + "1" + "}" * 3000, "a: " + "[" * 200 + "]" * 200])
def test_nesting_without_end_is_refused(text):
    with pytest.raises(RecipeError, match="too deeply"):
        read_text(text, "recipe.yaml")


def test_a_nul_character_is_refused_with_its_line():
    with pytest.raises(RecipeError, match="NUL") as refused:
        read_text('job: distill\nout: "a\\0b"\n', "recipe.yaml")
    assert refused.value.where == "recipe.yaml:2"
