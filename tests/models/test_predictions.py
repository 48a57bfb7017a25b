"""Tables of predictions: what they say is kept, what is no prediction is named by its row."""

import numpy as np
import pytest
import torch

from transfuse.core.types import ModelRequest
from transfuse.errors import ModelError
from transfuse.models import open_model

P = np.array([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0], [0.3333, 0.3333, 0.3333]])
IDS = np.array(["x/1.png", "x/2.png", "y/1.png"])


def npz(path, **arrays) -> str:
    np.savez(path / "t.npz", **arrays)
    return f"predictions:{path}/t.npz"


def csv(path, text: str) -> str:
    (path / "t.csv").write_text(text, encoding="utf-8")
    return f"predictions:{path}/t.csv"


def table(source: str, **request):
    model = open_model(source, ModelRequest(**request))
    assert model.module is None
    assert model.table is not None
    return model, *model.table


def test_a_softmax_gives_the_probabilities_back(tmp_path):
    model, ids, logits = table(npz(tmp_path, ids=IDS, probabilities=P, classes=np.array(["a", "b", "c"])))
    expected = torch.tensor(P / P.sum(1, keepdims=True), dtype=torch.float32)
    torch.testing.assert_close(logits.softmax(1), expected)
    assert torch.isfinite(logits).all()
    assert ids.tolist() == IDS.tolist()
    assert (model.classes, model.options["outputs"], model.pretrained) == (["a", "b", "c"], 3, True)


def test_logits_are_kept_as_they_are(tmp_path):
    logits = np.array([[3.0, -40.0], [1e4, 0.5]], dtype=np.float32)
    for name in ("logits", "outputs"):
        _, ids, found = table(npz(tmp_path, ids=np.array([5, 3]), **{name: logits}))
        assert torch.equal(found, torch.from_numpy(logits))
        assert ids.dtype == np.int64


def test_a_csv_has_an_id_column_anywhere_and_names_its_classes(tmp_path):
    model, ids, logits = table(csv(tmp_path, "cat,id,dog\n0.25,a,0.75\n0.5,b,0.5\n"))
    assert model.classes == ["cat", "dog"]
    assert ids.tolist() == ["a", "b"]
    torch.testing.assert_close(logits.softmax(1), torch.tensor([[0.25, 0.75], [0.5, 0.5]]))


def test_whole_numbers_are_integer_ids_and_others_stay_text(tmp_path):
    assert table(csv(tmp_path, "id,a,b\n1,0.5,0.5\n0,0.5,0.5\n"))[1].dtype == np.int64
    assert table(csv(tmp_path, "id,a,b\n01,0.5,0.5\n2,0.5,0.5\n"))[1].tolist() == ["01", "2"]


def test_a_csv_of_logits_says_so(tmp_path):
    source = csv(tmp_path, "id,a,b\n1,2.5,-1\n")
    with pytest.raises(ModelError, match="values: logits"):
        table(source)
    assert table(source, options={"values": "logits"})[2].tolist() == [[2.5, -1.0]]
    with pytest.raises(ModelError, match="probabilities or logits"):
        table(source, options={"values": "percent"})


def test_multilabel_probabilities_become_log_odds(tmp_path):
    probabilities = np.array([[0.9, 0.8], [0.0, 1.0]])
    _, _, logits = table(npz(tmp_path, ids=np.arange(2), probabilities=probabilities), task="multilabel")
    torch.testing.assert_close(logits.sigmoid(), torch.tensor(probabilities, dtype=torch.float32))
    assert torch.isfinite(logits).all()
    with pytest.raises(ModelError, match="outside 0 to 1"):
        table(npz(tmp_path, ids=np.arange(2), probabilities=probabilities + 0.5), task="multilabel")


def test_regression_predictions_are_in_their_own_units(tmp_path):
    model, _, values = table(csv(tmp_path, "id,price\n1,250000\n2,-3\n"), task="regression")
    assert values.tolist() == [[250000.0], [-3.0]]
    assert model.target is not None
    assert (model.target.names, model.target.mean, model.target.std) == (["price"], [0.0], [1.0])


@pytest.mark.parametrize(
    ("ids", "values", "message"),
    [
        (IDS, [[0.7, 0.3], [0.5, 0.4], [0.5, 0.5]], r"row number 2 \(id 'x/2.png'\) is no probabilities \(sum 0.9"),
        (IDS, [[0.7, 0.3], [0.5, 0.5], [1.2, -0.2]], r"row number 3 \(id 'y/1.png'\) is no probabilities"),
        (IDS, [[np.nan, 1], [0.5, 0.5], [np.inf, 0]], r"2 rows, the first number 1 \(id 'x/1.png'\), are not finite"),
        (IDS[[0, 1, 0]], [[0.5, 0.5]] * 3, r"row number 3 \(id 'x/1.png'\) is there twice"),
        (IDS[:2], [[0.5, 0.5]] * 3, "one row of numbers per id"),
        (IDS[:0], np.zeros((0, 2)), "holds no rows"),
    ],
)
def test_rows_that_are_no_predictions_are_named(tmp_path, ids, values, message):
    with pytest.raises(ModelError, match=message):
        table(npz(tmp_path, ids=ids, probabilities=np.array(values)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,a\nx,1\n", "column 'id'"),
        ("id,a,b\n", "and rows"),
        ("id,a,b\n1,0.5\n", "row 2 has 2 columns, the header 3"),
        ("id,a,b\n1,0.5,0.5\n\n2,half,0.5\n", "row 4: could not convert"),
        ("id,a,b\n1,nan,0.5\n", "row number 1"),
    ],
)
def test_a_csv_that_is_no_table_is_refused(tmp_path, text, message):
    with pytest.raises(ModelError, match=message):
        table(csv(tmp_path, text))


def test_files_of_other_kinds_are_refused(tmp_path):
    with pytest.raises(ModelError, match="it needs ids and either"):
        table(npz(tmp_path, ids=IDS, scores=P))
    with pytest.raises(ModelError, match="plain arrays only"):
        table(npz(tmp_path, ids=IDS.astype(object), probabilities=P))
    with pytest.raises(ModelError, match="2 class names for 3 columns"):
        table(npz(tmp_path, ids=IDS, probabilities=P, classes=np.array(["a", "b"])))
    (tmp_path / "t.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(ModelError, match="can't be read"):
        table(f"predictions:{tmp_path}/t.npz")
    (tmp_path / "t.parquet").touch()
    with pytest.raises(ModelError, match=r"is \.npz or \.csv"):
        table(f"predictions:{tmp_path}/t.parquet")
    with pytest.raises(ModelError, match="no such file"):
        table(f"predictions:{tmp_path}/nothing.csv")
