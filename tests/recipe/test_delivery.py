import pytest

from transfuse.errors import RecipeError
from transfuse.recipe.delivery import read_arguments, read_targets
from transfuse.recipe.load import dump, from_text

RECIPE = "job: distill\ndata: bundled:digits\nteacher: builtin:mlp\nstudent: builtin:mlp\n"


@pytest.mark.parametrize("written", ["onnx", "[onnx]", "[{onnx: {}}]", "{onnx: null}"])
def test_short_forms_mean_the_same(written):
    recipe = from_text(f"{RECIPE}export: {written}")
    assert [next(iter(entry)) for entry in recipe.export] == ["onnx"]
    assert from_text(dump(recipe)) == recipe


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("onx", "did you mean 'onnx'"),
        ("[{onnx_int8: {calibratoin: 3}}]", "did you mean 'calibration'"),
        ("[{onnx: {opset: 3}}]", "at least 18"),
        ("[onnx, onnx]", "there twice"),
        ("3", "export is a list"),
    ],
)
def test_what_cannot_be_exported_is_refused_with_its_line(written, said):
    with pytest.raises(RecipeError, match=r"recipe\.yaml:5") as refused:
        from_text(f"{RECIPE}export: {written}")
    assert said in str(refused.value)


def test_the_verbs_arguments_become_targets():
    asked = read_arguments(["target=[onnx,onnx_int8]", "onnx_int8.calibration=64", "out=shipped"])
    assert [next(iter(entry)) for entry in asked.targets] == ["onnx", "onnx_int8"]
    assert asked.targets[1]["onnx_int8"]["calibration"] == 64
    assert asked.out == "shipped"
    assert read_arguments(["target=onnx", "preprocess=graph"]).targets[0]["onnx"]["preprocess"] == "graph"


@pytest.mark.parametrize("arguments", [[], ["onnx"], ["target=[onnx,bf16]", "opset=18"], ["target=onnx", "calibration=3"], ["target=3"]])
def test_arguments_that_say_no_target_are_refused(arguments):
    with pytest.raises(RecipeError):
        read_arguments(arguments)


def test_python_values_are_taken_as_they_are():
    assert read_targets(("onnx", {"bf16": {"most_loss": 0.5}}))[1]["bf16"]["most_loss"] == 0.5
