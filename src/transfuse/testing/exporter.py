"""check_exporter: the proof that an export target writes what it was given, in a form that stands on its own."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from transfuse.core.preprocess import Preprocess
from transfuse.core.shipping import ExportRequest, Part, Written
from transfuse.core.signature import parameters
from transfuse.core.types import Model, ModelRequest, Target
from transfuse.data.samples import ArraySamples, subset
from transfuse.export.verify import Judge, answers, verify
from transfuse.models import open_model

SAMPLES = 40
CLASSES = ["ants", "bees & wasps", "Käfer <b>", "蝶"]


class ExporterDefect(AssertionError):
    """An export target doesn't do what it has to.

    Args:
        check: which check failed.
        what: how.
    """

    def __init__(self, check: str, what: str):
        super().__init__(f"{check}: {what}")
        self.check = check


def check_exporter(exporter_class: type, arguments: Mapping[str, Any] | None = None, make_model: Callable[[], Model] | None = None) -> None:
    """Proves an export target on a small network and seeded data; see `core.protocols.Exporter`.

    - schema: every constructor parameter has a type, so that a recipe can set it, and the class has `packages` and `marks`;
    - written: the file lies in the folder, and the network that was handed over has the bits, mode and gradients' flags it had before;
    - opened: from the files alone it gives the network's answers (to 1e-4 of the largest output, or within the marks) for batches of 1 and
      of many, and class names, also those with markup and other scripts, are in it;
    - fooled: answers of another network don't pass.

    Args:
        exporter_class: the target.
        arguments: of its constructor.
        make_model: the network that is exported, with preprocessing; default: a ConvNet on 16x16 pictures of which it takes 12x12.

    Raises:
        ExporterDefect: the first check that failed, and how.
    """
    _check_schema(exporter_class)
    exporter = exporter_class(**dict(arguments or {}))
    model = (make_model or example_model)()
    samples = example_samples(model)
    with tempfile.TemporaryDirectory() as folder:
        request = _request(model, samples, Path(folder))
        before = {name: value.clone() for name, value in model.network.state_dict().items()}
        written = exporter.write(request)
        _check_untouched(model, before, written, Path(folder))
        _check_answers(exporter, model, samples, written, Path(folder))


def example_model() -> Model:
    """A small ConvNet with BatchNorm whose statistics have moved, weights drawn wide so that its decisions differ."""
    options = {"widths": [8, 16]}
    model = open_model("builtin:convnet", ModelRequest(outputs=len(CLASSES), input_shape=(3, 12, 12), options=options, seed=1))
    generator = torch.Generator().manual_seed(0)
    model.network.train()
    for _ in range(3):
        model.network(torch.randn(16, 3, 12, 12, generator=generator))
    last = [module for module in model.network.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        last.weight.mul_(20)
    model.network.eval()
    model.preprocess = Preprocess((12, 12), 3, (0.5, 0.4, 0.3), (0.2, 0.2, 0.3), 1 / 255, 0.8, "short_side")
    model.classes = list(CLASSES)
    return model


def example_samples(model: Model) -> ArraySamples:
    """Seeded pictures of 20x16, or rows where the network takes rows; labels are what the network says, with every seventh one changed."""
    assert model.preprocess is not None
    generator = torch.Generator().manual_seed(1)
    shape = tuple(model.options.get("input_shape") or (3, 12, 12))
    if len(shape) == 3:
        coarse = torch.rand(SAMPLES, shape[0], 4, 4, generator=generator)
        raw = (255 * nn.functional.interpolate(coarse, (20, 16), mode="nearest")).to(torch.uint8)
    else:
        raw = torch.randn(SAMPLES, *shape, generator=generator)
    samples = ArraySamples(raw, torch.zeros(SAMPLES, dtype=torch.int64), np.arange(SAMPLES))
    with torch.no_grad():
        outputs = model.network(samples.exact(range(SAMPLES), model.preprocess))
    if model.target is not None:
        noise = 0.1 * torch.randn(outputs.shape, generator=generator)
        labels: Tensor = (outputs + noise) * torch.tensor(model.target.std) + torch.tensor(model.target.mean)
    else:
        labels = outputs.argmax(1)
        labels[::7] = (labels[::7] + 1) % outputs.shape[1]
    return ArraySamples(raw, labels, np.arange(SAMPLES))


def example_regression() -> Model:
    """A small MLP on 6 columns with scaled inputs and two scaled targets."""
    model = open_model("builtin:mlp", ModelRequest(outputs=2, input_shape=(6,), options={"widths": [16]}, task="regression"))
    model.network.eval()
    model.preprocess = Preprocess(mean=(0.1,) * 6, std=(1.5,) * 6)
    model.target = Target(["height", "weight"], [170.0, 70.0], [10.0, 12.0])
    return model


def _check_schema(exporter_class: type) -> None:
    try:
        parameters(exporter_class)
    except TypeError as error:
        raise ExporterDefect("schema", str(error)) from error
    missing = [name for name in ("packages", "marks", "rehearse", "write", "open") if not hasattr(exporter_class, name)]
    if missing or not exporter_class.__doc__:
        raise ExporterDefect("schema", f"{exporter_class.__name__} has no {', '.join(missing) or 'docstring'}")


def _request(model: Model, samples: ArraySamples, folder: Path) -> ExportRequest:
    preprocess = model.preprocess
    assert preprocess is not None

    def calibration(most: int, part: Part) -> Iterator[Tensor]:
        for start in range(0, min(most, SAMPLES), 16):
            yield samples.exact(range(start, min(start + 16, most, SAMPLES)), preprocess)

    task = "regression" if model.target is not None else "classification"
    return ExportRequest(model, task, samples.raw([0]), calibration, folder)


def _check_untouched(model: Model, before: Mapping[str, Tensor], written: Written, folder: Path) -> None:
    after = model.network.state_dict()
    changed = [name for name, value in before.items() if after[name].dtype != value.dtype or not torch.equal(after[name], value)]
    if changed or any(module.training for module in model.network.modules()):
        raise ExporterDefect("written", f"the network was changed: {', '.join(changed[:3]) or 'it is in training mode'}")
    if not all(parameter.requires_grad for parameter in model.network.parameters()):
        raise ExporterDefect("written", "the network's parameters need no gradient any more")
    if not written.file.is_file() or written.file.parent != folder:
        raise ExporterDefect("written", f"{written.file} is not in the folder")


def _check_answers(exporter: Any, model: Model, samples: ArraySamples, written: Written, folder: Path) -> None:
    opened = exporter.open(folder)
    task = "regression" if model.target is not None else "classification"
    judge = Judge(samples, "seeded", task, exporter.marks)
    found = verify(model, written, opened, judge, blocks=1)
    if not found["passed"]:
        raise ExporterDefect("opened", f"{'; '.join(found['failures'])}: {json.dumps(found, default=str)[:600]}")
    if opened.classes != model.classes or opened.target != model.target:
        raise ExporterDefect("opened", f"class names or scaling are lost: {opened.classes}, {opened.target}")
    one_by_one = torch.cat([answers(opened, replace(judge, samples=_row(samples, row))) for row in range(3)])
    together = answers(opened, judge)[:3]
    allowed = 1e-4 if exporter.marks is None else 0.2
    if not torch.allclose(one_by_one, together, atol=allowed * float(together.abs().max())):
        raise ExporterDefect("opened", "batches of 1 and of many give different answers")
    stranger = replace(model, module=copy.deepcopy(model.network))
    with torch.no_grad():
        for parameter in stranger.network.parameters():
            parameter.copy_(parameter.flip(0))
    if verify(stranger, written, opened, judge, blocks=1)["passed"]:
        raise ExporterDefect("fooled", "the file passes as another network's")


def _row(samples: ArraySamples, row: int) -> Any:
    return subset(samples, [row])
