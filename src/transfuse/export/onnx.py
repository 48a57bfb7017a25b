"""ONNX in float32, for onnxruntime and others: any number of samples per batch, preprocessing inside the graph or beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Le

from transfuse.core.shipping import ExportRequest, Written
from transfuse.core.types import Model
from transfuse.export._beside import STEM, Place
from transfuse.models import open_model


class Onnx:
    """student.onnx, student.json and preprocess.json.

    Args:
        preprocess: file: the file takes what preprocess.json describes; graph: it takes 8-bit pictures of any size (or raw columns).
        opset: version of ONNX's operators; 18 is the first that resizes as Pillow does.
        least_agreement: with preprocessing in the graph: share of the samples on which it has to decide as the network does; see verify.
        most_loss: with preprocessing in the graph: how much of the task's first metric it may lose; of rmse, by which share it may grow.
    """

    packages: tuple[str, ...] = ("onnx", "onnxscript", "onnxruntime")

    def __init__(
        self,
        preprocess: Place = "file",
        opset: Annotated[int, Ge(18), Le(23)] = 18,
        least_agreement: Annotated[float, Ge(0), Le(1)] = 0.98,
        most_loss: Annotated[float, Ge(0)] = 0.01,
    ):
        self.preprocess: Place = preprocess
        self.opset, self.least_agreement, self.most_loss = opset, least_agreement, most_loss

    @property
    def marks(self) -> tuple[float, float] | None:
        return (self.least_agreement, self.most_loss) if self.preprocess == "graph" else None

    def rehearse(self, request: ExportRequest) -> None:
        from transfuse.export._onnx_file import rehearse

        rehearse(request, self.opset)

    def write(self, request: ExportRequest) -> Written:
        """Translates to ONNX and adds preprocessing where it is wanted.

        Raises:
            ExportError: an operator that ONNX lacks.
        """
        from transfuse.export._onnx_file import finish, network_graph

        return finish(request, network_graph(request, self.opset), self.preprocess, {})

    def open(self, folder: Path) -> Model:
        return open_model(f"onnx:{folder / STEM}.onnx")
