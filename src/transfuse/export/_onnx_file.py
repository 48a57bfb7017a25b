"""Making, describing and writing ONNX files, for every target that ends in one."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from onnx import ModelProto, checker, compose, helper
from torch.export import ExportedProgram

from transfuse.core.atomic import replacing
from transfuse.core.preprocess import Preprocess
from transfuse.core.shipping import ExportRequest, Written
from transfuse.errors import ExportError
from transfuse.export._beside import STEM, Place, describe, write_json
from transfuse.export._graph import capture, first_line, module_of, quiet
from transfuse.export._preprocessing import OUTPUT, preprocessing
from transfuse.models.onnx import OnnxNetwork

NETWORK_INPUT, NETWORK_OUTPUT = "inputs", "outputs"
LARGEST = 2**31 - 1  # bytes of a protobuf message


def network_graph(request: ExportRequest, opset: int) -> ModelProto:
    """The network alone: float32 [batch, ...] -> [batch, outputs].

    Raises:
        ExportError: it can't be traced, or has an operator that ONNX lacks, named with its module.
    """
    program = capture(request.model.network, request.example)
    try:
        with quiet():
            made = torch.onnx.export(
                program,
                (request.example,),
                dynamo=True,
                input_names=[NETWORK_INPUT],
                output_names=[NETWORK_OUTPUT],
                opset_version=opset,
                verbose=False,
            )
            assert made is not None
            graph: ModelProto = made.model_proto
    except torch.onnx.errors.OnnxExporterError as error:
        raise _lacking(error, program, type(request.model.network).__name__) from error
    if graph.ByteSize() > LARGEST:
        raise ExportError("the network has more than 2 GB of weights, which one ONNX file can't hold", fix="export to safetensors")
    _tidy(graph)
    return graph


def _lacking(error: BaseException, program: ExportedProgram, network: str) -> ExportError:
    """What ONNX has no translation for, and where it is in the network."""
    cause, text = error, ""
    while cause is not None:  # the operator is named in the middle of the chain, its lack at the end
        text += f"{cause}\n"
        cause = cause.__cause__
    found = re.search(r"Error when translating node %(\w+).*?target=torch\.ops\.([\w.]+)", text)
    if found is None:
        return ExportError(f"{network} can't be translated to ONNX: {first_line(error)}", fix="export to safetensors or torch_export")
    place = next((module_of(node) for node in _translated(program).graph.nodes if node.name == found[1]), "")
    return ExportError(
        f"ONNX has nothing for the operator {found[2]} of {network}",
        where=f"module '{place}'" if place else None,
        fix="put another layer there, or export to safetensors or torch_export",
    )


def _translated(program: ExportedProgram) -> ExportedProgram:
    """The graph in the operators that the exporter translates, as far as it lets itself be asked."""
    try:
        from torch.onnx._internal.exporter import _decomp, _registration

        registry = _registration.ONNXRegistry.from_torchlib()
        known: Any = set(_decomp.get_onnx_implemented_overloads(registry))
        table: Any = _decomp.create_onnx_friendly_decomposition_table(known)
        with quiet():
            return program.run_decompositions(table)
    except (ImportError, AttributeError, TypeError):  # another torch keeps this elsewhere: the operator is named without its module
        return program


def _tidy(graph: ModelProto) -> None:
    """Takes out what tells of the machine it was made on (paths, stack traces), and intermediate shapes, which quantisers trip over."""
    inner = graph.graph
    for part in (*inner.node, *inner.input, *inner.output, *inner.initializer, inner, graph, *graph.functions):
        del part.metadata_props[:]
    for node in inner.node:
        node.ClearField("doc_string")
    del inner.value_info[:]
    for value in (*inner.input, *inner.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"


def finish(request: ExportRequest, network: ModelProto, place: Place, facts: dict[str, Any]) -> Written:
    """Puts preprocessing inside or beside, describes the file inside and beside, writes it.

    Args:
        request: what is exported.
        network: its graph.
        place: of the preprocessing: in the graph, or in preprocess.json.
        facts: for verify.json.
    """
    opset = next(entry.version for entry in network.opset_import if entry.domain == "")
    preprocess, graph = request.preprocess, network
    if place == "graph":
        shape = tuple(request.raw.shape[1:])
        made = preprocessing(preprocess, shape, request.raw.is_floating_point(), opset, network.ir_version, request.arrays)
        graph = compose.merge_models(made, network, io_map=[(OUTPUT, NETWORK_INPUT)])
        preprocess = Preprocess(channels=preprocess.channels or (shape[0] if len(shape) == 3 else None))
    told = {
        "classes": request.model.classes,
        "task": request.task,
        "preprocess": preprocess.to_dict(),
        "target": None if request.model.target is None else asdict(request.model.target),
    }
    helper.set_model_props(graph, {key: json.dumps(value, ensure_ascii=False) for key, value in told.items() if value is not None})
    graph.producer_name, graph.graph.name = "transfuse", STEM
    checker.check_model(graph)
    file = request.folder / f"{STEM}.onnx"
    with replacing(file) as temporary:
        temporary.write_bytes(graph.SerializeToString())
    describe(request, file, preprocess, {"options": {}, "grafts": [], "opset": opset, "input": graph.graph.input[0].name})
    _preprocess_file(request, place)
    return Written(file, {"opset": opset, "preprocess": place, **facts})


def _preprocess_file(request: ExportRequest, place: Place) -> None:
    """preprocess.json, where somebody else has to do it; else none from an earlier export may be left."""
    path: Path = request.folder / "preprocess.json"
    if place == "file":
        write_json(path, request.preprocess.to_dict())
    else:
        path.unlink(missing_ok=True)


def beside_float(network: ModelProto) -> dict[str, OnnxNetwork]:
    """The float32 graph as a network in the same runtime, for comparing speeds."""
    return {"onnx in float32": OnnxNetwork(network.SerializeToString())}


def rehearse(request: ExportRequest, opset: int) -> None:
    """Translates the network and throws the result away: what ONNX lacks is met before a training and not after it.

    Raises:
        ExportError: as `network_graph`.
    """
    network_graph(request, opset)
