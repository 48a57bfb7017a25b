"""transfuse push: a finished run's student, card, recipe and report go to a model hub; only when its user says so."""

from __future__ import annotations

import importlib.util
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transfuse.errors import MissingExtra, ModelError, RunError
from transfuse.jobs.parts.loading import exported_file
from transfuse.jobs.rundir import RunDir
from transfuse.report import card
from transfuse.report.collect import collect

_FILES = ("student.safetensors", "student.json", "recipe.yaml", "recipe.resolved.yaml", "summary.json", "report.html")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass
class Parcel:
    """What would be uploaded.

    Attributes:
        run: the folder.
        repository: owner/name.
        files: name in the repository -> bytes.
        shows_data: the report has pictures of the user's data.
        left_out: exports that stay here, since they didn't pass their verification or were never verified.
    """

    run: Path
    repository: str
    files: dict[str, int]
    shows_data: bool
    left_out: list[str]


def push(run: str | Path, repository: str, confirm: Callable[[Parcel], bool], private: bool = True, report: bool = True) -> str | None:
    """Uploads a finished run's student, after asking once.

    Args:
        run: its folder; predictions, samples, checkpoints, metrics.jsonl and env.json stay here.
        repository: owner/name on the hub that huggingface_hub is set up for.
        confirm: is shown what would be uploaded and says whether to.
        private: a repository that is made for it is private.
        report: whether report.html goes along; it may show pictures of the data.

    Returns:
        Where it is; None where `confirm` said no.

    Raises:
        RunError: not a finished run, no such repository name, or the hub refused.
        MissingExtra: huggingface_hub is not installed.
    """
    if importlib.util.find_spec("huggingface_hub") is None:
        raise MissingExtra("huggingface_hub", "hub", "transfuse push")
    if not _REPOSITORY.fullmatch(repository):
        raise RunError(f"'{repository}' is no repository", fix="write OWNER/NAME, such as me/small-net")
    rundir = RunDir(run)
    rundir.read_summary()
    if not rundir.student.exists():
        raise RunError("the run has no student.safetensors", where=str(run), fix="give the folder of a run that shipped a student")
    with tempfile.TemporaryDirectory(prefix="transfuse-push-") as staged:
        left_out = _pack(rundir, Path(staged), repository, report)
        files = {str(path.relative_to(staged)): path.stat().st_size for path in sorted(Path(staged).rglob("*")) if path.is_file()}
        shows_data = report and (rundir.samples / "samples.npz").exists()
        parcel = Parcel(rundir.path, repository, files, shows_data, left_out)
        if not confirm(parcel):
            return None
        return _upload(Path(staged), repository, private)


def _pack(rundir: RunDir, staged: Path, repository: str, report: bool) -> list[str]:
    """Copies what is uploaded; gives the exports that are left out."""
    for name in _FILES:
        if (rundir.path / name).exists() and (report or name != "report.html"):
            shutil.copyfile(rundir.path / name, staged / name)
    left_out = []
    for folder in sorted(path for path in rundir.exports.glob("*") if path.is_dir()):
        if _passed(folder):
            shutil.copytree(folder, staged / rundir.exports.name / folder.name)
        else:
            left_out.append(f"{rundir.exports.name}/{folder.name}")
    (staged / "README.md").write_text(card.render(collect(rundir.path), repository), encoding="utf-8")
    return left_out


def _passed(export: Path) -> bool:
    try:
        return exported_file(export) is not None
    except ModelError:  # it didn't pass, or its verdict or file is damaged
        return False


def _upload(staged: Path, repository: str, private: bool) -> str:
    import huggingface_hub
    from huggingface_hub.errors import LocalTokenNotFoundError

    api: Any = huggingface_hub.HfApi(library_name="transfuse")
    try:
        api.create_repo(repository, private=private, exist_ok=True, repo_type="model")
        done = api.upload_folder(folder_path=str(staged), repo_id=repository, repo_type="model", commit_message="transfuse push")
    except LocalTokenNotFoundError as error:
        raise RunError("the hub doesn't know you", where=repository, fix="log in with: hf auth login") from error
    except (OSError, ValueError) as error:  # its errors of HTTP and of names are children of these
        first = " ".join(str(error).split())[:300]
        raise RunError(
            f"the hub refused: {first}", where=repository, fix="check name, rights and network; nothing here was changed"
        ) from error
    return str(getattr(done, "commit_url", "") or f"{api.endpoint}/{repository}")
