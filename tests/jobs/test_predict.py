"""Predictions on files: rows and pictures, what can't be read, and how much is held at a time."""

import csv
import io
import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image

import transfuse
from transfuse.cli.main import run as cli
from transfuse.core.preprocess import Preprocess
from transfuse.core.types import ModelRequest, Target
from transfuse.errors import DataError, ModelError
from transfuse.jobs import predict as predicting
from transfuse.models import open_model, save_model


def saved(path, source, shape, **facts):
    model = open_model(source, ModelRequest(outputs=2, input_shape=shape, options={"widths": [4]}))
    model.network.eval()
    for name, value in facts.items():
        setattr(model, name, value)
    save_model(model, path, {})
    return path


@pytest.fixture
def pictures(tmp_path):
    """A network for 8x8 pictures; a folder of 30 pictures in two sizes, a hidden one, a broken one and a text among them."""
    facts = {"preprocess": Preprocess((8, 8), 3, scale=1 / 255), "classes": ["ant", "bee <b>"]}
    model = saved(tmp_path / "net.safetensors", "builtin:convnet", (3, 8, 8), **facts)
    folder = tmp_path / "photos"
    (folder / "inner").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(30):
        pixels = generator.integers(0, 256, (8 + number % 2 * 5, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / ("inner" if number % 3 else "") / f"{number:02}.png")
    (folder / "07.png").write_bytes(b"no picture")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "read.me").write_text("not asked about")
    return model, folder


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_answers_are_those_of_the_network_on_its_exact_path(pictures):
    path, folder = pictures
    model = open_model(f"file:{path}")
    for row in transfuse.predict(path, [folder / "00.png", folder / "inner"]):
        with torch.no_grad():
            outputs = model.network(model.preprocess.exact_image(Image.open(row["input"])))[0]
        expected = outputs.double().softmax(0)
        assert row["class"] == model.classes[int(outputs.argmax())]
        assert list(row["probabilities"].values()) == pytest.approx(expected.tolist(), abs=1e-6)
        assert row["probability"] == max(row["probabilities"].values())


def test_an_unreadable_file_is_named_the_rest_done_and_the_exit_code_says_so(pictures, capsys):
    path, folder = pictures
    assert cli(["predict", str(path), str(folder)]) == 2
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert len(rows) == 31
    assert [row["input"] for row in rows if "error" in row] == [str(folder / "07.png")]
    assert "1 of 31 inputs could not be predicted" in captured.err
    assert str(folder / "07.png") in captured.err


def test_patterns_and_single_files_are_found(pictures, capsys):
    path, folder = pictures
    assert cli(["predict", str(path), str(folder / "inner" / "1*.png"), str(folder / "00.png"), "--top", "1"]) == 0
    rows = lines(capsys)
    assert len(rows) == 1 + sum(number % 3 > 0 for number in range(10, 20))
    assert all(len(row["probabilities"]) == 1 for row in rows)


def test_csv_holds_the_same_as_json_lines(pictures, capsys, tmp_path):
    path, folder = pictures
    out = tmp_path / "answers.csv"
    assert cli(["predict", str(path), str(folder), "--format", "csv", "--out", str(out)]) == 2
    cli(["predict", str(path), str(folder)])
    rows = lines(capsys)
    with open(out, newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["input", "class", "probability", "ant", "bee <b>", "error"]
    for row, cells in zip(rows, table, strict=True):
        assert cells["class"] == row.get("class", "")
        if "error" not in row:
            assert float(cells["bee <b>"]) == row["probabilities"]["bee <b>"]
    assert cli(["predict", str(path), str(folder), "--out", str(out)]) == 2  # a file that is there is left alone


@pytest.mark.parametrize("inputs", [[], ["nothing/here.png"], ["photos/*.none"]])
def test_an_empty_list_of_inputs_is_refused(pictures, inputs, capsys, monkeypatch):
    path, folder = pictures
    monkeypatch.chdir(folder.parent)
    assert cli(["predict", str(path), *inputs]) == 2
    assert capsys.readouterr().out == ""


def test_inputs_are_read_only_as_they_are_asked_for(pictures):
    path, folder = pictures
    student = predicting.Student.open(path)
    read = []

    def endless():
        for number in itertools.count():
            read.append(number)
            yield folder / "00.png"

    rows = predicting.answers(student, endless(), batch_size=4)
    taken = [next(rows) for _ in range(9)]
    assert len(taken) == 9
    assert len(read) <= 12


def test_pictures_that_the_network_cannot_take_are_named(tmp_path, pictures):
    _, folder = pictures
    path = saved(tmp_path / "any.safetensors", "builtin:mlp", (3, 8, 8), preprocess=Preprocess(channels=3, scale=1 / 255))
    Image.new("RGB", (8, 8)).save(folder / "right.png")
    rows = list(transfuse.predict(path, [folder / "right.png", folder / "00.png"]))
    assert "class" in rows[0]
    assert "can't take an input of shape (3, 8, 9)" in rows[1]["error"]


@pytest.fixture
def table(tmp_path):
    path = saved(tmp_path / "rows.safetensors", "builtin:mlp", (3,), preprocess=Preprocess(mean=(1.0,), std=(2.0,)), classes=["no", "yes"])
    return path, tmp_path


def test_rows_of_a_table_are_predicted_and_bad_ones_named(table):
    path, folder = table
    (folder / "new.csv").write_text("id,a,b,c\nfirst,1,2,3\nsecond,1,x,3\nthird,1,2\nfourth,nan,2,3\nfifth,4,5,6\n")
    rows = list(transfuse.predict(path, folder / "new.csv"))
    assert [row["input"] for row in rows] == ["first", "second", "third", "fourth", "fifth"]
    assert ["error" in row for row in rows] == [False, True, True, True, False]
    assert "column 'b'" in rows[1]["error"]
    model = open_model(f"file:{path}")
    with torch.no_grad():
        expected = model.network((torch.tensor([[1.0, 2.0, 3.0]]) - 1) / 2).double().softmax(1)[0]
    assert list(rows[0]["probabilities"].values()) == pytest.approx(expected.tolist(), abs=1e-6)


def test_missing_columns_are_named(table, capsys):
    path, folder = table
    (folder / "new.csv").write_text("id,weight,height\n1,2,3\n")
    with pytest.raises(DataError, match="2 columns beside id, the model takes 3"):
        list(transfuse.predict(path, folder / "new.csv"))
    assert cli(["predict", str(path), str(folder / "new.csv"), "--columns", "height,weigth,age"]) == 2
    assert "'weigth', 'age' are missing" in capsys.readouterr().err


def test_columns_are_taken_in_the_models_order(table):
    path, folder = table
    (folder / "a.csv").write_text("a,b,c\n1,2,3\n")
    (folder / "b.csv").write_text("c,extra,a,b\n3,9,1,2\n")
    student = predicting.Student.open(path)
    first = next(predicting.answers(student, [folder / "a.csv"]))
    second = next(predicting.answers(student, [folder / "b.csv"], columns=["a", "b", "c"]))
    assert first["probabilities"] == second["probabilities"]


def test_arrays_are_predicted_row_by_row(table):
    path, folder = table
    values = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    np.save(folder / "new.npy", values)
    np.savez(folder / "new.npz", x=values)
    rows = {kind: [row["probabilities"] for row in transfuse.predict(path, folder / f"new.{kind}")] for kind in ("npy", "npz")}
    assert rows["npy"] == rows["npz"]
    assert len(rows["npy"]) == 5
    np.save(folder / "wide.npy", np.zeros((2, 7), np.float32))
    with pytest.raises(DataError, match="7 columns, the model takes 3"):
        list(transfuse.predict(path, folder / "wide.npy"))


def test_a_picture_for_a_network_of_rows_is_refused(table, pictures):
    path, _ = table
    _, folder = pictures
    with pytest.raises(DataError, match="rows of 3 columns"):
        list(transfuse.predict(path, folder / "00.png"))


def test_regressions_answer_in_the_targets_own_units(tmp_path):
    target = Target(["height", "weight"], [170.0, 70.0], [10.0, 12.0])
    path = saved(tmp_path / "net.safetensors", "builtin:mlp", (3,), preprocess=Preprocess(std=(1.0,)), target=target)
    np.save(tmp_path / "new.npy", np.ones((1, 3), np.float32))
    (row,) = transfuse.predict(path, tmp_path / "new.npy")
    with torch.no_grad():
        outputs = open_model(f"file:{path}").network(torch.ones(1, 3))[0]
    assert row["predictions"] == pytest.approx({"height": outputs[0].item() * 10 + 170, "weight": outputs[1].item() * 12 + 70}, rel=1e-5)


def test_a_model_that_does_not_say_its_preprocessing_is_refused(tmp_path):
    path = saved(tmp_path / "net.safetensors", "builtin:mlp", (3,))
    with pytest.raises(ModelError, match="preprocessed"):
        predicting.Student.open(path)


def test_a_csv_cell_with_a_comma_stays_one_cell():
    from transfuse.jobs.deliver.predictions import lines as written

    rows = [{"input": "a", "error": "no, it can't"}, {"input": "b", "class": "x,y", "probability": 1.0, "probabilities": {"x,y": 1.0}}]
    cells = list(csv.reader(io.StringIO("\n".join(written(rows, "csv")))))
    assert cells == [["input", "class", "probability", "x,y", "error"], ["a", "", "", "", "no, it can't"], ["b", "x,y", "1.0", "1.0", ""]]


@pytest.mark.parametrize(
    ("row", "header", "cells"),
    [
        (
            {"class": "class", "probability": 0.7, "probabilities": {"class": 0.7, "probability": 0.2, "input": 0.1}},
            ["class", "probability", "class", "probability", "input"],
            ["class", "0.7", "0.7", "0.2", "0.1"],
        ),
        (
            {"classes": ["probability", "b"], "probabilities": {"probability": 0.9, "b": 0.8}},
            ["classes", "probability", "b"],
            ["probability;b", "0.9", "0.8"],
        ),
        ({"predictions": {"class": 1.5, "probability": -2.0}}, ["class", "probability"], ["1.5", "-2.0"]),
    ],
)
def test_a_class_or_a_target_may_be_called_as_a_column_is(row, header, cells):
    from transfuse.jobs.deliver.predictions import lines as written

    rows = [{"input": "bad", "error": "torn"}, {"input": "a", **row}]
    found = list(csv.reader(io.StringIO("\n".join(written(rows, "csv")))))
    assert found == [["input", *header, "error"], ["bad", *[""] * len(header), "torn"], ["a", *cells, ""]]


def test_a_csv_with_only_the_largest_probabilities_keeps_every_column():
    from transfuse.jobs.deliver.predictions import lines as written

    rows = [
        {"input": name, "class": best, "probability": 0.9, "probabilities": {"x": 0.1, "y": 0.1, best: 0.9}}
        for name, best in (("a", "x"), ("b", "y"))
    ]
    found = list(csv.reader(io.StringIO("\n".join(written(rows, "csv", top=1)))))
    assert found[0] == ["input", "class", "probability", "x", "y", "error"]
    assert [row[3:5] for row in found[1:]] == [["0.9", ""], ["", "0.9"]]
