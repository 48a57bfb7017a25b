"""The verbs for Python that bring a student to where it is used: export, load, predict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from transfuse.core.protocols import Reporter
from transfuse.errors import ModelError
from transfuse.jobs import export as export_run
from transfuse.jobs import predict as predicting
from transfuse.jobs.context import Run
from transfuse.jobs.parts.loading import open_anything
from transfuse.recipe.delivery import read_targets


def export(
    run: str | Path | Run,
    target: str | Mapping[str, Any] | Sequence[Any],
    data: Any = None,
    out: str | Path | None = None,
    trusted: bool = False,
    reporter: Reporter | None = None,
) -> dict[str, Path]:
    """Ships a run's student in other formats; every file is opened, run on real samples and compared with the student.

    Args:
        run: a run, its folder, or a model source string (which needs `data` and `out`).
        target: "onnx", {"onnx_int8": {"calibration": 256}}, or a list of both kinds; `transfuse ls targets` lists them.
        data: in place of the run's own, for calibration and comparison: a source string, or live data as in `distill`.
        out: the folder; None: the run's `exports/TARGET`.
        trusted: the model's file may be unpickled.
        reporter: who is told what goes on.

    Returns:
        Target -> the file; `verify.json` beside it holds what was compared and timed.

    Raises:
        ExportError: the network can't be had in the format, or the file differs from it: the file is then called student.failed.*.
        TransfuseError: anything else that has to change.
    """
    source = run.path if isinstance(run, Run) else run
    return export_run.run(source, read_targets(target), data, out, trusted, reporter)


def load(source: str | Path, trusted: bool = False) -> nn.Module:
    """The network of a run folder, an export, a file or a model source string, in eval mode; takes preprocessed inputs, gives logits.

    `transfuse.models.open_model` gives the preprocessing and the class names as well.

    Args:
        source: which.
        trusted: a .pt2 file or a pickle may be opened although it can run code.

    Raises:
        ModelError: there is nothing to open, or a table of predictions, which has no network.
    """
    model = open_anything(source, trusted)
    if model.module is None:
        fix = "transfuse.models.open_model gives its rows (.table), and it can be a teacher or be measured"
        raise ModelError("a table of predictions is no network", where=str(source), fix=fix)
    return model.module.eval()


def predict(source: str | Path | Run, inputs: Any, trusted: bool = False, batch_size: int = 32) -> Iterator[dict[str, Any]]:
    """What a student says about inputs, one after the other, in constant memory.

    Args:
        source: a run, or whatever `load` opens.
        inputs: paths, folders and patterns such as "photos/*.jpg", one or a list: pictures, CSV files, arrays (.npy, .npz).
        trusted: as in `load`.
        batch_size: inputs that are asked about together.

    Yields:
        {"input", "class", "probability", "probabilities"} for classes, {"input", "classes", "probabilities"} for several labels,
        {"input", "predictions"} for regression, {"input", "error"} for an input that can't be read.

    Raises:
        DataError: nothing to predict on, or inputs of a kind that the model can't take.
        ModelError: the model can't be opened.
    """
    given = [inputs] if isinstance(inputs, (str, Path)) else list(inputs)
    student = predicting.Student.open(source.path if isinstance(source, Run) else source, trusted)
    return predicting.answers(student, predicting.found([str(entry) for entry in given], student), batch_size)
