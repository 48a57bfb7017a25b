"""A network in an ONNX file, run by onnxruntime: `onnx:FILE`. It can teach and predict; it can't be trained."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from transfuse.core.preprocess import Preprocess
from transfuse.core.types import Model, ModelRequest, Target
from transfuse.errors import MissingExtra, ModelError
from transfuse.models.saving import Sidecar, read_sidecar

DTYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
_WHERE_UNKNOWN = 1  # length of a dimension that the file leaves open, in a trial run


class OnnxNetwork(nn.Module):
    """An ONNX graph as a module: float inputs [batch, ...] on any device -> its first output.

    It has no parameters; `digest`, the SHA-256 of the file, stands for them wherever a network's state is hashed, and `stored_bytes`, the
    file's size with that of the weights beside it, where sizes are compared. A graph with a fixed
    batch is asked in batches of that size, the last one filled up. One that takes 8-bit pictures gets its inputs rounded to that.

    Args:
        path: the .onnx file, or its content.
    """

    digest: Tensor

    def __init__(self, path: Path | bytes):
        super().__init__()
        self.path = path
        self._sessions: dict[int, Any] = {}
        first = self.session().get_inputs()[0]
        self.input, self.output = first.name, self.session().get_outputs()[0].name
        self.input_shape = tuple(size if isinstance(size, int) else None for size in first.shape)
        self.dtype = DTYPES[first.type]
        self.stored_bytes = len(path) if isinstance(path, bytes) else _file_bytes(path)
        digest = hashlib.sha256(path if isinstance(path, bytes) else path.read_bytes()).digest()
        self.register_buffer("digest", torch.frombuffer(bytearray(digest), dtype=torch.uint8))

    def session(self) -> Any:
        """The runtime's session for as many threads as torch has now."""
        threads = torch.get_num_threads()
        if threads not in self._sessions:
            self._sessions[threads] = _session(self.path, threads)
        return self._sessions[threads]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sessions": {}}  # a session can be neither copied nor sent to a process: it is opened again there

    def forward(self, inputs: Tensor) -> Tensor:
        values = inputs.detach().cpu()
        if self.dtype == np.uint8 and values.is_floating_point():
            values = values.round().clamp(0, 255)
        array = np.ascontiguousarray(values.numpy().astype(self.dtype, copy=False))
        batch = self.input_shape[0]
        outputs = self._run(array) if batch is None else self._in_batches(array, batch)
        return torch.from_numpy(np.asarray(outputs, dtype=np.float32)).to(inputs.device)

    def _run(self, array: np.ndarray) -> np.ndarray:
        session = self.session()
        try:
            return session.run([self.output], {self.input: array})[0]
        except Exception as error:  # see _session; whoever asks a network expects a RuntimeError of inputs that it can't take
            raise RuntimeError(" ".join(str(error).split())[:300]) from error

    def _in_batches(self, array: np.ndarray, batch: int) -> np.ndarray:
        missing = -len(array) % batch
        filled = np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array
        parts = [self._run(np.ascontiguousarray(filled[start : start + batch])) for start in range(0, len(filled), batch)]
        return np.concatenate(parts)[: len(array)]


def _file_bytes(path: Path) -> int:
    """Of the graph and of the file that torch's exporter puts large weights into."""
    beside = path.with_name(f"{path.name}.data")
    return path.stat().st_size + (beside.stat().st_size if beside.is_file() else 0)


def _session(path: Path | bytes, threads: int) -> Any:
    where = "an ONNX graph in memory" if isinstance(path, bytes) else str(path)
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("onnxruntime", "export", f"the network {where}") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    try:
        return onnxruntime.InferenceSession(path if isinstance(path, bytes) else str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime has an exception class for each of its status codes, derived from Exception alone
        first = str(error).strip().splitlines()[0][:300]
        raise ModelError(f"onnxruntime can't open it: {first}", where, "get or export the file again") from error


def open_model(name: str, request: ModelRequest) -> Model:
    """Opens an ONNX file; preprocessing, class names and scaling come from its metadata, else from the .json beside it.

    Raises:
        ModelError: missing or damaged file, or one whose first input isn't a batch of numbers.
        MissingExtra: onnxruntime is not installed.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        raise ModelError("no such file", f"onnx:{name}", "give the .onnx file")
    session = _session(path, torch.get_num_threads())
    kind, shape = session.get_inputs()[0].type, session.get_inputs()[0].shape
    if kind not in DTYPES or len(shape) not in (2, 4):
        what = f"its input is {kind} {shape}: neither pictures [batch, channels, height, width] nor rows [batch, columns]"
        raise ModelError(what, f"onnx:{name}")
    network = OnnxNetwork(path).eval()
    told = _told(session.get_modelmeta().custom_metadata_map, path) or read_sidecar(path) or Sidecar()
    options = {"outputs": _outputs(network, told, request), "input_shape": list(network.input_shape[1:])}
    return Model(
        network, f"onnx:{name}", options=options, preprocess=told.preprocess, classes=told.classes, target=told.target, pretrained=True
    )


def _told(metadata: Mapping[str, str], path: Path) -> Sidecar | None:
    """What the file says of itself; None where transfuse didn't write it."""
    if "preprocess" not in metadata:
        return None
    try:
        found = {key: json.loads(metadata[key]) for key in ("preprocess", "classes", "target") if key in metadata}
        return Sidecar(
            preprocess=Preprocess.from_dict(found["preprocess"]),
            classes=found.get("classes"),
            target=Target(**found["target"]) if found.get("target") else None,
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"its metadata can't be read: {error}", str(path), "export it again") from error


def _outputs(network: OnnxNetwork, told: Sidecar, request: ModelRequest) -> int:
    """How many numbers it says per sample: as the file states it, else from one trial run."""
    stated = network.session().get_outputs()[0].shape
    if len(stated) == 2 and isinstance(stated[1], int):
        return stated[1]
    if told.classes:
        return len(told.classes)
    shape = [size or given for size, given in zip(network.input_shape[1:], request.input_shape or [_WHERE_UNKNOWN] * 3, strict=False)]
    try:
        outputs = network(torch.zeros(1, *shape))
    except Exception as error:  # see _session
        first = str(error).strip().splitlines()[0][:300]
        raise ModelError(f"can't be run on inputs of shape {tuple(shape)}: {first}", str(network.path)) from error
    return outputs.shape[-1]


def catalog() -> Mapping[str, str]:
    """How a file is named; there is nothing to choose from."""
    return {"FILE": "a network in ONNX, run by onnxruntime: as a teacher, or to predict"}
