"""The run folder: its layout, and writing it so that a reader never sees half a file."""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from transfuse.core import atomic
from transfuse.errors import RunError

FORMAT = 1  # of the folder; raised when a reader of the old one would misread the new one


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` that takes its place when the block ends well, and vanishes when it doesn't.

    Raises:
        RunError: the disk is full or the folder can't be written.
    """
    try:
        with atomic.replacing(path) as temporary:
            yield temporary
    except OSError as error:
        raise _disk_error(error, path) from error


def _disk_error(error: OSError, path: Path) -> RunError:
    if error.errno == errno.ENOSPC:
        return RunError("the disk is full", where=str(path), fix="free some space; what was written before is intact")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return RunError("no permission to write here", where=str(path), fix="choose another folder with out=FOLDER")
    return RunError(f"can't write: {error.strerror or error}", where=str(path), fix="choose another folder with out=FOLDER")


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


class RunDir:
    """Paths inside one run folder.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    recipe = property(lambda self: self.path / "recipe.yaml")
    resolved = property(lambda self: self.path / "recipe.resolved.yaml")
    env = property(lambda self: self.path / "env.json")
    metrics = property(lambda self: self.path / "metrics.jsonl")
    summary = property(lambda self: self.path / "summary.json")
    checkpoints = property(lambda self: self.path / "checkpoints")
    student = property(lambda self: self.path / "student.safetensors")
    teacher = property(lambda self: self.path / "teacher.safetensors")
    control = property(lambda self: self.path / "control")
    predictions = property(lambda self: self.path / "predictions")
    samples = property(lambda self: self.path / "samples")
    exports = property(lambda self: self.path / "exports")
    report = property(lambda self: self.path / "report.html")
    card = property(lambda self: self.path / "README.md")
    traceback = property(lambda self: self.path / "traceback.txt")

    @property
    def finished(self) -> bool:
        """Whether there is a whole summary.json. One that was torn counts as absent, so that resuming writes it anew."""
        try:
            return isinstance(json.loads(self.summary.read_text(encoding="utf-8")), dict)
        except (ValueError, OSError):
            return False

    def refuse_occupied(self) -> None:
        """Looks whether a new run may be written here, without touching anything.

        Raises:
            RunError: the path can't be a folder, is a file, or the folder holds another run or other files.
        """
        try:
            os.lstat(self.path)
        except FileNotFoundError:
            return
        except OSError as error:  # a name that is too long, a place below a file
            raise _disk_error(error, self.path) from error
        if not self.path.exists():
            raise RunError("is a link to nothing", where=str(self.path), fix="choose another folder with out=FOLDER")
        if not self.path.is_dir():
            raise RunError("is a file, not a folder", where=str(self.path), fix="choose another folder with out=FOLDER")
        if self.recipe.exists() or self.resolved.exists():
            state = "a finished run" if self.finished else "an unfinished run"
            fix = "choose another folder with out=FOLDER" + ("" if self.finished else f", or: transfuse resume {self.path}")
            raise RunError(f"the folder holds {state}", where=str(self.path), fix=fix)
        if any(self.path.iterdir()):
            raise RunError("the folder is not empty", where=str(self.path), fix="choose an empty or new folder with out=FOLDER")

    def create(self) -> None:
        """Makes the folder for a new run.

        Raises:
            RunError: it is occupied, or can't be written.
        """
        self.refuse_occupied()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise _disk_error(error, self.path) from error

    @contextmanager
    def beginning(self) -> Iterator[None]:
        """Makes the folder for a block that writes its first files; when that fails (a full disk) all of it is taken away again.

        Raises:
            RunError: it is occupied, or can't be written.
        """
        existed = self.path.exists()
        self.create()
        try:
            yield
        except BaseException:
            for written in self.path.iterdir():  # it was empty before
                remove(written)
            if not existed:
                self.path.rmdir()
            raise

    def open(self) -> None:
        """Checks that the folder is a run.

        Raises:
            RunError: no such folder, or no recipe in it.
        """
        if not self.resolved.exists():
            if self.recipe.exists():
                fix = "nothing was trained yet: delete the folder and start the job again"
                raise RunError("the run was stopped before it began", where=str(self.path), fix=fix)
            what = "no such run folder" if not self.path.exists() else "not a run folder: it has no recipe.resolved.yaml"
            raise RunError(what, where=str(self.path), fix="give the folder that a job wrote (its `out`)")

    def read_summary(self) -> dict[str, Any]:
        """The finished run's summary.

        Raises:
            RunError: the run isn't finished, or the file was damaged.
        """
        self.open()
        if not self.summary.exists():
            raise RunError("the run is not finished: no summary.json", where=str(self.path), fix=f"transfuse resume {self.path}")
        try:
            found = json.loads(self.summary.read_text(encoding="utf-8"))
            if not isinstance(found, dict):
                raise ValueError("not a JSON object")
            return found
        except (ValueError, OSError) as error:
            fix = f"it was cut off or damaged: transfuse resume {self.path} writes it anew"
            raise RunError(f"can't be read: {error}", where=str(self.summary), fix=fix) from error


def heads_beside(student: Path) -> Path:
    """The folder of the other tasks' networks, as `run:PATH#head:NAME` finds those of the shipped student."""
    return student.parent / ("heads" if student.stem == "student" else f"{student.stem}.heads")


def take_student(chosen: Path, student: Path) -> None:
    """Copies a network and those of other tasks to where the student's are, the student last: whoever finds it takes the training for done.

    Args:
        chosen: the weights, with a .json beside them.
        student: where they go.
    """
    places = {path: heads_beside(student) / path.name for path in sorted(heads_beside(chosen).glob("*"))}
    places |= {chosen.with_suffix(suffix): student.with_suffix(suffix) for suffix in (".json", ".safetensors")}
    for path, place in places.items():
        with replacing(place) as temporary:
            shutil.copyfile(path, temporary)


def default_out(job: str, now: datetime | None = None) -> str:
    """runs/JOB-20261121-140312, not taken yet."""
    stem = f"runs/{job}-{(now or datetime.now()).strftime('%Y%m%d-%H%M%S')}"
    out, count = stem, 1
    while Path(out).exists():
        count += 1
        out = f"{stem}-{count}"
    return out


def environment(seed: int, device: str, commit: str | None) -> dict[str, Any]:
    """What a reader needs to know of the place where a run was made."""
    import importlib.metadata as metadata

    versions = {}
    for package in ("transfuse", "torch", "torchvision", "timm", "numpy", "scikit-learn", "safetensors"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "format": FORMAT,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "device": device,
        "versions": versions,
        "commit": commit,
        "seed": seed,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def remove(path: Path) -> None:
    """Deletes a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
