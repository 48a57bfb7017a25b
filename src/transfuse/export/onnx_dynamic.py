"""ONNX with 8-bit weights and activations quantised as they come: needs no samples; for networks that are mostly linear layers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Le

from transfuse.core.shipping import ExportRequest, Written
from transfuse.core.types import Model
from transfuse.errors import ExportError
from transfuse.export._beside import STEM, Place
from transfuse.export._graph import first_line, quiet
from transfuse.models import open_model

_KINDS = {"linear": ("MatMul", "Gemm"), "all": ("MatMul", "Gemm", "Conv")}


class OnnxDynamic:
    """student.onnx, student.json and preprocess.json. The scale of activations is taken from each batch, so neighbours move an answer.

    Args:
        layers: linear: matrix products; all: convolutions too, which onnxruntime computes slowly in this form.
        preprocess: file: the file takes what preprocess.json describes; graph: it takes 8-bit pictures of any size (or raw columns).
        opset: version of ONNX's operators.
        least_agreement: share of the samples on which it has to decide as the network does; of the variance, for regression.
        most_loss: how much of the task's first metric it may lose; of an error such as rmse, by which share it may grow.
    """

    packages: tuple[str, ...] = ("onnx", "onnxscript", "onnxruntime")

    def __init__(
        self,
        layers: Literal["linear", "all"] = "linear",
        preprocess: Place = "file",
        opset: Annotated[int, Ge(18), Le(23)] = 18,
        least_agreement: Annotated[float, Ge(0), Le(1)] = 0.95,
        most_loss: Annotated[float, Ge(0)] = 0.02,
    ):
        self.layers: Literal["linear", "all"] = layers
        self.preprocess: Place = preprocess
        self.opset, self.least_agreement, self.most_loss = opset, least_agreement, most_loss

    @property
    def marks(self) -> tuple[float, float] | None:
        return self.least_agreement, self.most_loss

    def rehearse(self, request: ExportRequest) -> None:
        from transfuse.export._onnx_file import rehearse

        rehearse(request, self.opset)

    def write(self, request: ExportRequest) -> Written:
        """Translates to ONNX and quantises.

        Raises:
            ExportError: an operator that ONNX lacks, or no layer of the chosen kind.
        """
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic

        from transfuse.export._onnx_file import beside_float, finish, network_graph

        network = network_graph(request, self.opset)
        kinds = _KINDS[self.layers]
        chosen = sum(node.op_type in kinds for node in network.graph.node)
        every = sum(node.op_type in _KINDS["all"] for node in network.graph.node)
        if not chosen:
            raise ExportError(
                f"the network has no {self.layers} layers to quantise", where="onnx_dynamic", fix="export to onnx_int8 instead"
            )
        with tempfile.TemporaryDirectory() as folder, quiet():
            given, made = Path(folder, "given.onnx"), Path(folder, "quantised.onnx")
            given.write_bytes(network.SerializeToString())  # handed over in memory, it would be changed
            try:
                quantize_dynamic(given, made, op_types_to_quantize=list(kinds), weight_type=QuantType.QInt8)
            except Exception as error:  # the quantiser raises ValueError, RuntimeError and the runtime's own
                raise ExportError(f"onnxruntime can't quantise the network: {first_line(error)}", fix="export to onnx instead") from error
            quantised = onnx.load(made)
        written = finish(request, quantised, self.preprocess, {"layers": {"quantised": chosen, "all": every}})
        if chosen < every:
            written.notes.append(
                f"{chosen} of {every} layers are in 8 bits: the others are no matrix products (layers: all takes them too)"
            )
        written.beside |= beside_float(network)
        return written

    def open(self, folder: Path) -> Model:
        return open_model(f"onnx:{folder / STEM}.onnx")
