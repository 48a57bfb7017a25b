"""The networks of a run folder."""

import json

import pytest
import torch

from transfuse.core.types import ModelRequest
from transfuse.errors import ModelError
from transfuse.models import open_model, save_model


@pytest.fixture
def run(tmp_path):
    for seed, place in enumerate(("student.safetensors", "teacher.safetensors", "control/student.safetensors")):
        model = open_model("builtin:mlp", ModelRequest(outputs=2, input_shape=(3,), seed=seed))
        save_model(model, tmp_path / "run#1" / place, {})
    return tmp_path / "run#1"


def weight(source: str, **request) -> torch.Tensor:
    return open_model(source, ModelRequest(**request)).network.linear.weight


def test_a_run_gives_its_student_teacher_and_control(tmp_path):
    folder = tmp_path / "run"
    for seed, place in enumerate(("student.safetensors", "teacher.safetensors", "control/student.safetensors")):
        save_model(open_model("builtin:mlp", ModelRequest(outputs=2, input_shape=(3,), seed=seed)), folder / place, {})
    for seed, part in enumerate(("", "#teacher", "#control")):
        model = open_model(f"run:{folder}{part}", ModelRequest())
        expected = open_model("builtin:mlp", ModelRequest(outputs=2, input_shape=(3,), seed=seed)).network.linear.weight
        assert torch.equal(model.network.linear.weight, expected)
        assert model.source == f"run:{folder}{part}"


def test_a_run_whose_student_json_is_gone_or_edited_is_told_so_in_a_line_or_two(run):
    told = run / "student.json"
    content = json.loads(told.read_text())
    told.write_text(json.dumps({**content, "options": {**content["options"], "widths": [7, 7, 7]}}))
    with pytest.raises(ModelError, match=r"names a network that student\.safetensors doesn't fit") as refused:
        open_model(f"run:{run}", ModelRequest())
    assert str(refused.value.where) == str(told)
    assert len(str(refused.value).splitlines()) <= 3
    told.unlink()
    with pytest.raises(ModelError, match="is missing, and without it nobody knows") as refused:
        open_model(f"run:{run}", ModelRequest())
    assert "architecture:" not in str(refused.value)


def test_a_peer_is_opened_by_its_name(run):
    save_model(open_model("builtin:mlp", ModelRequest(outputs=2, input_shape=(3,), seed=7)), run / "peers/wide.safetensors", {})
    expected = open_model("builtin:mlp", ModelRequest(outputs=2, input_shape=(3,), seed=7)).network.linear.weight
    assert torch.equal(weight(f"run:{run}#peer:wide"), expected)
    with pytest.raises(ModelError, match=r"no peer wid - did you mean 'peer:wide'.*\n.*it has: student, teacher, control, peer:wide"):
        open_model(f"run:{run}#peer:wid", ModelRequest())


def test_a_folder_may_have_a_hash_in_its_name(run):
    assert weight(f"run:{run}").shape == weight(f"run:{run}#control").shape


def test_what_a_run_has_not_is_told(run, tmp_path):
    (run / "teacher.safetensors").unlink()
    with pytest.raises(ModelError, match="it has: student, control"):
        open_model(f"run:{run}#teacher", ModelRequest())
    with pytest.raises(ModelError, match="no part 'teachr' - did you mean 'teacher'"):
        open_model(f"run:{run}#teachr", ModelRequest())
    with pytest.raises(ModelError, match="no such run folder"):
        open_model(f"run:{tmp_path}/nothing", ModelRequest())
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="transfuse resume"):
        open_model(f"run:{tmp_path}/empty", ModelRequest())
