"""Uploads against a stub of the hub's client: asked once, nothing private goes along, refusals are one message."""

import pytest
import yaml

from tests.report.runs import write_run
from transfuse.cli.main import run as command
from transfuse.errors import MissingExtra, RunError
from transfuse.jobs.push import push

huggingface_hub = pytest.importorskip("huggingface_hub")


VERDICTS = {
    "onnx": '{"file": "student.onnx", "passed": true}',
    "onnx_int8": '{"file": "student.onnx", "passed": false, "failures": ["it loses 9 points"]}',
    "bf16": '{"file": "stud',
    "safetensors": None,
}


class Hub:
    """What the client would send, and what it is told."""

    endpoint = "https://hub.example"

    def __init__(self, refusal=None):
        self.made, self.files, self.refusal = [], {}, refusal

    def __call__(self, **settings):
        return self

    def create_repo(self, repository, private, exist_ok, repo_type):
        if self.refusal:
            raise self.refusal
        self.made.append((repository, private, repo_type))

    def upload_folder(self, folder_path, repo_id, repo_type, commit_message):
        from pathlib import Path

        self.files = {str(path.relative_to(folder_path)): path.read_bytes() for path in Path(folder_path).rglob("*") if path.is_file()}


@pytest.fixture
def hub(monkeypatch):
    found = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", found)
    return found


@pytest.fixture
def finished(tmp_path):
    write_run(tmp_path / "run", n=60)
    (tmp_path / "run" / "student.safetensors").write_bytes(b"weights")
    (tmp_path / "run" / "report.html").write_text("report")
    for target, verdict in VERDICTS.items():
        folder = tmp_path / "run" / "exports" / target
        folder.mkdir(parents=True)
        (folder / "student.onnx").write_bytes(b"onnx")
        if verdict is not None:
            (folder / "verify.json").write_text(verdict)
    return tmp_path / "run"


def test_the_student_its_card_recipe_report_and_exports_go_and_nothing_else(hub, finished):
    shown = []
    address = push(finished, "me/small-net", lambda parcel: shown.append(parcel) or True)
    assert address == "https://hub.example/me/small-net"
    assert hub.made == [("me/small-net", True, "model")]
    expected = {
        *("README.md", "student.safetensors", "student.json", "recipe.yaml", "recipe.resolved.yaml", "summary.json", "report.html"),
        *("exports/onnx/student.onnx", "exports/onnx/verify.json"),
    }
    assert set(hub.files) == set(shown[0].files) == expected
    assert shown[0].left_out == ["exports/bf16", "exports/onnx_int8", "exports/safetensors"]  # damaged, failed, never verified
    assert shown[0].shows_data
    assert hub.files["student.safetensors"] == b"weights"
    card = hub.files["README.md"].decode()
    assert yaml.safe_load(card.split("---")[1])["library_name"] == "transfuse"
    assert "snapshot_download('me/small-net')" in card
    assert str(finished) not in card


def test_a_no_uploads_nothing(hub, finished):
    assert push(finished, "me/small-net", lambda parcel: False) is None
    assert not hub.made
    assert not hub.files


def test_the_command_asks_once_and_takes_no_answer_for_a_no(hub, finished, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("click.confirm", lambda text, default: asked.append((text, default)) or default)
    assert command(["push", str(finished), "me/net"]) == 0
    assert asked == [("Upload these to me/net (private)?", False)]
    said = capsys.readouterr().out
    assert "nothing was uploaded" in said
    assert "exports/onnx_int8 stays here" in said
    assert not hub.files
    assert command(["push", str(finished), "me/net", "--yes", "--public", "--no-report"]) == 0
    assert len(asked) == 1
    assert hub.made == [("me/net", False, "model")]
    assert "report.html" not in hub.files


def test_what_can_not_be_pushed_is_refused_before_anything_is_asked(hub, finished, tmp_path, monkeypatch):
    for run, repository, words in (
        (finished, "net", "OWNER/NAME"),
        (finished, "../me/net", "OWNER/NAME"),
        (tmp_path / "nowhere", "me/net", "no such run folder"),
    ):
        with pytest.raises(RunError) as refused:
            push(run, repository, lambda parcel: pytest.fail("asked"))
        assert words in str(refused.value)
    (finished / "student.safetensors").unlink()
    with pytest.raises(RunError, match="no student"):
        push(finished, "me/net", lambda parcel: pytest.fail("asked"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="huggingface_hub"):
        push(finished, "me/net", lambda parcel: True)


def test_the_hubs_refusal_is_one_message(monkeypatch, finished):
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    assert issubclass(HfHubHTTPError, OSError)
    refusals = (LocalTokenNotFoundError("no token"), "hf auth login"), (OSError("Forbidden"), "Forbidden"), (HFValidationError("no"), "no")
    for refusal, words in refusals:
        monkeypatch.setattr(huggingface_hub, "HfApi", Hub(refusal))
        with pytest.raises(RunError) as refused:
            push(finished, "me/net", lambda parcel: True)
        assert words in str(refused.value)
