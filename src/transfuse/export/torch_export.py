"""A program of torch.export (.pt2): opens with torch alone. It can hold pickled objects, so opening one takes trust."""

from __future__ import annotations

from pathlib import Path

from torch.export import ExportedProgram
from torch.export import save as save_program

from transfuse.core.atomic import replacing
from transfuse.core.shipping import ExportRequest, Written
from transfuse.core.types import Model
from transfuse.export._beside import STEM, describe
from transfuse.export._graph import capture, quiet
from transfuse.models.exported import open_exported


class TorchExport:
    """student.pt2 and student.json; preprocessing stays outside."""

    packages: tuple[str, ...] = ()

    @property
    def marks(self) -> tuple[float, float] | None:
        return None

    def rehearse(self, request: ExportRequest) -> None:
        capture(request.model.network, request.example)

    def write(self, request: ExportRequest) -> Written:
        """Traces the network with any number of samples per batch and saves the graph.

        Raises:
            ExportError: it can't be traced.
        """
        return write_program(request, capture(request.model.network, request.example))

    def open(self, folder: Path) -> Model:
        return open_exported(folder / f"{STEM}.pt2", trusted=True)  # what was written here a moment ago


def write_program(request: ExportRequest, program: ExportedProgram, operators: str | None = None) -> Written:
    """student.pt2 and student.json.

    Args:
        request: what is exported.
        program: its graph.
        operators: the package that has to be imported before the file is opened.
    """
    file = request.folder / f"{STEM}.pt2"
    with replacing(file) as temporary, quiet():
        inside = temporary.with_suffix(".pt2")  # torch insists on the ending
        try:
            save_program(program, inside)
            inside.replace(temporary)
        finally:
            inside.unlink(missing_ok=True)
    describe(request, file, request.preprocess, {"operators": operators})
    return Written(file, {"operators": operators} if operators else {})
