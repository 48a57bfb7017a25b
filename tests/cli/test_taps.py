"""`transfuse taps` prints what can be tapped, and what is wrong with a question in one message."""

import pytest

from transfuse.cli.main import run


def test_it_prints_every_module_with_its_shape_and_what_auto_taps(capsys):
    assert run(["taps", "builtin:resnet20"]) == 0
    captured = capsys.readouterr()
    lines = [line.split() for line in captured.out.splitlines()]
    assert ["layer2", "Sequential", "32x16x16", "auto"] in lines
    assert ["layer1.0.conv1", "Conv2d", "16x32x32"] in lines
    assert "auto: layer1, layer2, layer3" in captured.err


def test_words_and_the_shape_of_the_input_can_be_given(capsys):
    assert run(["taps", "builtin:resnet20", "layer3", "conv", "--input", "1x16x16"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(lines) == 6
    assert all("layer3" in line and "conv" in line and "64x4x4" in line for line in lines)


def test_a_network_of_columns_has_nothing_for_auto(capsys):
    assert run(["taps", "builtin:mlp", "--input", "30"]) == 0
    assert "auto: none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["builtin:resnet21"], "unknown architecture 'resnet21'"),
        (["builtin:resnet20", "layer9"], "no module path has all of: layer9"),
        (["builtin:resnet20", "--input", "3x-2"], "is no shape"),
        (["builtin:resnet20", "--input", "30"], "takes pictures"),
        ([], "Missing argument 'MODEL'"),
    ],
)
def test_a_wrong_question_is_answered_with_what_is_wrong(arguments, message, capsys):
    assert run(["taps", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("shape", ["5", "3x8x8"])
def test_an_input_that_another_runtime_refuses_is_answered_too(tmp_path, capsys, shape):
    pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    from tests.models.test_onnx import write

    assert run(["taps", write(tmp_path / "net.onnx"), "--input", shape]) == 2
    assert "can't take an input of shape" in capsys.readouterr().err


def test_what_runs_as_a_whole_has_nothing_to_tap(tmp_path, capsys):
    pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    from tests.models.test_onnx import write

    assert run(["taps", write(tmp_path / "net.onnx"), "--input", "4"]) == 2
    assert "run as a whole" in capsys.readouterr().err
