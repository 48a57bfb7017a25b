"""ONNX in 8-bit integers, weights and activations: onnxruntime's static quantisation, calibrated on training samples."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Le

from transfuse.core.shipping import ExportRequest, Part, Written
from transfuse.core.types import Model
from transfuse.errors import ExportError
from transfuse.export._beside import STEM, Place
from transfuse.export._graph import first_line, quiet
from transfuse.models import open_model

if TYPE_CHECKING:
    import onnx

Method = Literal["minmax", "entropy", "percentile"]


class OnnxInt8:
    """student.onnx in QDQ form, student.json and preprocess.json.

    Activations are unsigned (asymmetric) and weights signed with a scale per channel, which is what onnxruntime advises for x86
    processors. Preprocessing that is put into the graph stays in float32.

    Args:
        calibration: training samples from which the ranges of activations are taken, spread evenly over the training part.
        calibrate_on: which part they come from; val where the network has seen the training part before, as published weights have.
        method: minmax covers everything seen; entropy and percentile leave out outliers.
        reduce_range: 7-bit weights, for x86 processors without VNNI, whose 16-bit sums would overflow.
        preprocess: file: the file takes what preprocess.json describes; graph: it takes 8-bit pictures of any size (or raw columns).
        opset: version of ONNX's operators.
        least_agreement: share of the samples on which it has to decide as the network does; of the variance, for regression.
        most_loss: how much of the task's first metric it may lose; of an error such as rmse, by which share it may grow.
    """

    packages: tuple[str, ...] = ("onnx", "onnxscript", "onnxruntime")

    def __init__(
        self,
        calibration: Annotated[int, Ge(1)] = 512,
        calibrate_on: Part = "train",
        method: Method = "minmax",
        reduce_range: bool = False,
        preprocess: Place = "file",
        opset: Annotated[int, Ge(18), Le(23)] = 18,
        least_agreement: Annotated[float, Ge(0), Le(1)] = 0.95,
        most_loss: Annotated[float, Ge(0)] = 0.02,
    ):
        self.calibrate_on: Part = calibrate_on
        self.calibration, self.method, self.reduce_range = calibration, method, reduce_range
        self.preprocess: Place = preprocess
        self.opset, self.least_agreement, self.most_loss = opset, least_agreement, most_loss

    @property
    def marks(self) -> tuple[float, float] | None:
        return self.least_agreement, self.most_loss

    def rehearse(self, request: ExportRequest) -> None:
        from transfuse.export._onnx_file import rehearse

        rehearse(request, self.opset)

    def write(self, request: ExportRequest) -> Written:
        """Translates to ONNX, folds BatchNorm, quantises.

        Raises:
            ExportError: no training samples to calibrate on, an operator that ONNX lacks, or nothing that can be quantised.
        """
        from transfuse.export._onnx_file import beside_float, finish, network_graph

        if request.calibration is None:
            fix = "give the data: data=SOURCE (data=... in Python)"
            raise ExportError("there are no training samples to calibrate on", where="onnx_int8", fix=fix)
        network = network_graph(request, self.opset)
        batches = request.calibration(self.calibration, self.calibrate_on)
        if self.method != "minmax":  # histograms are made of all batches in one array, so the last one may not be smaller
            batches = (sample for batch in batches for sample in batch.split(1))
        reader = _Reader(batches, network.graph.input[0].name)
        quantised = self._quantised(network, reader)
        layers = sum(node.op_type in ("Conv", "Gemm", "MatMul") for node in network.graph.node)
        facts = {"calibration": {"samples": reader.samples, "part": self.calibrate_on, "method": self.method}, "layers": layers}
        written = finish(request, quantised, self.preprocess, facts)
        written.beside |= beside_float(network)
        return written

    def _quantised(self, network: onnx.ModelProto, reader: Any) -> onnx.ModelProto:
        import onnx
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        methods = {"minmax": CalibrationMethod.MinMax, "entropy": CalibrationMethod.Entropy, "percentile": CalibrationMethod.Percentile}
        with tempfile.TemporaryDirectory() as folder, quiet():
            given, prepared, made = (Path(folder, f"{stage}.onnx") for stage in ("given", "prepared", "quantised"))
            given.write_bytes(network.SerializeToString())  # handed over in memory, it would be changed
            try:
                quant_pre_process(given, prepared, skip_symbolic_shape=True)  # symbolic inference is for transformers with odd shapes
                quantize_static(
                    prepared,
                    made,
                    reader,
                    quant_format=QuantFormat.QDQ,
                    per_channel=True,
                    reduce_range=self.reduce_range,
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                    calibrate_method=methods[self.method],
                )
                quantised = onnx.load(made)
            except Exception as error:  # the quantiser raises ValueError, RuntimeError and the runtime's own
                raise ExportError(f"onnxruntime can't quantise the network: {first_line(error)}", fix="export to onnx instead") from error
        if not any(node.op_type == "QuantizeLinear" for node in quantised.graph.node):
            raise ExportError("the network has no layer that onnxruntime quantises", fix="export to onnx instead")
        return quantised

    def open(self, folder: Path) -> Model:
        return open_model(f"onnx:{folder / STEM}.onnx")


class _Reader:
    """Batches of preprocessed samples as onnxruntime's calibration wants them; it takes any class with `get_next`.

    Args:
        batches: float tensors [n, ...].
        name: of the graph's input.
    """

    def __init__(self, batches: Iterator[Any], name: str):
        self._batches, self._input, self.samples = batches, name, 0

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        if batch is None:
            return None
        self.samples += len(batch)
        return {self._input: batch.numpy()}
