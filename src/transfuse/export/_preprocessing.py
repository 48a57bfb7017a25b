"""A model's preprocessing as an ONNX graph: resize as Pillow does it, crop, scale, normalise; pictures of any size go in."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from transfuse.core.preprocess import Preprocess

INPUT, OUTPUT = "raw", "prepared"
_MODES: dict[str, dict[str, Any]] = {
    "bilinear": {"mode": "linear", "antialias": 1},
    "bicubic": {"mode": "cubic", "antialias": 1, "cubic_coeff_a": -0.5},
    "nearest": {"mode": "nearest", "nearest_mode": "round_prefer_ceil"},
}


class _Builder:
    """Nodes and constants of a graph in the making; every method adds a node and gives the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def constant(self, value: Any, dtype: Any) -> str:
        name = f"preprocess/constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def add(self, operator: str, *inputs: str, attributes: Mapping[str, Any] | None = None) -> str:
        output = f"preprocess/{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **(attributes or {})))
        return output

    def cast(self, value: str, kind: int) -> str:
        return self.add("Cast", value, attributes={"to": kind})

    def joined(self, first: str, second: str) -> str:
        return self.add("Concat", first, second, attributes={"axis": 0})


def preprocessing(
    preprocess: Preprocess, shape: tuple[int, ...], floats: bool, opset: int, ir_version: int, arrays: bool = False
) -> ModelProto:
    """The graph from raw values to what the network takes.

    Args:
        preprocess: the network's.
        shape: of one raw sample, (channels, height, width) or (columns,).
        floats: whether raw values are float32 instead of 8-bit.
        opset, ir_version: of the network that it is joined with.
        arrays: whether pictures that have the network's size are taken as they are, as `Preprocess.exact_batch` takes arrays; otherwise
            they are resized and cropped like those of any size, as `Preprocess.exact_image` does with files.
    """
    build = _Builder()
    value = INPUT if floats else build.cast(INPUT, TensorProto.FLOAT)
    given: list[Any] = ["batch", *shape]
    if len(shape) == 3:
        given[1] = preprocess.channels or shape[0]
        if preprocess.size is not None:
            given[2:] = ["height", "width"]
            value = _sized(build, value, preprocess, rounded=not floats, arrays=arrays)
    value = _normalised(build, value, preprocess, len(given))
    build.nodes[-1].output[0] = OUTPUT
    kind = TensorProto.FLOAT if floats else TensorProto.UINT8
    made = [*given[:2], *(preprocess.size or given[2:])] if len(shape) == 3 else given
    graph = helper.make_graph(
        build.nodes,
        "preprocessing",
        [helper.make_tensor_value_info(INPUT, kind, given)],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, made)],
        build.constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def _normalised(build: _Builder, value: str, preprocess: Preprocess, rank: int) -> str:
    """(value * scale - mean) / std, in the order and precision of `Preprocess.normalise`."""
    shape = (1, -1) + (1,) * (rank - 2)
    value = build.add("Mul", value, build.constant(preprocess.scale, np.float32))
    if preprocess.mean or preprocess.std:
        mean = np.reshape(np.array(preprocess.mean or (0.0,)), shape)
        std = np.reshape(np.array(preprocess.std or (1.0,)), shape)
        value = build.add("Div", build.add("Sub", value, build.constant(mean, np.float32)), build.constant(std, np.float32))
    return value


def _sized(build: _Builder, value: str, preprocess: Preprocess, rounded: bool, arrays: bool) -> str:
    """Resize and crop of the exact evaluation path; sizes are computed in float64, as Python does it.

    A picture that is left as it is runs through the same nodes, with sizes and edges that change nothing.
    """
    assert preprocess.size is not None
    goal = (round(preprocess.size[0] / preprocess.crop), round(preprocess.size[1] / preprocess.crop))
    shape = build.add("Shape", value)
    bounds = [build.constant([place], np.int64) for place in (2, 3, 4)]
    sides = (build.add("Slice", shape, first, last) for first, last in pairwise(bounds))
    height, width = (build.cast(side, TensorProto.DOUBLE) for side in sides)
    ready = _has_size(build, height, width, preprocess) if arrays and preprocess.crop != 1 else None  # without a crop nothing would change
    side = build.constant(preprocess.size, np.int64)
    if preprocess.resize == "crop_first":
        first, last = _frame(build, height, width, preprocess)
        if ready is not None:
            first, last = build.add("Where", ready, build.constant([0, 0], np.int64), first), build.add("Where", ready, side, last)
        return _resize(build, _slice(build, value, first, last), side, preprocess, rounded)
    if preprocess.resize == "squash":
        sizes = build.constant(goal, np.int64)
    else:
        factors = [build.add("Div", build.constant([side], np.float64), have) for side, have in zip(goal, (height, width), strict=True)]
        factor = build.add("Max", *factors)
        scaled = build.add("Round", build.add("Mul", build.joined(height, width), factor))
        sizes = build.cast(build.add("Max", scaled, build.constant(preprocess.size, np.float64)), TensorProto.INT64)
    if ready is not None:
        sizes = build.add("Where", ready, side, sizes)
    value = _resize(build, value, sizes, preprocess, rounded)
    first = build.add("Div", build.add("Sub", sizes, side), build.constant([2, 2], np.int64))
    return _slice(build, value, first, build.add("Add", first, side))


def _has_size(build: _Builder, height: str, width: str, preprocess: Preprocess) -> str:
    """Whether a picture has the network's size already, bool [1]."""
    same = build.add("Equal", build.joined(height, width), build.constant(preprocess.size, np.float64))
    return build.cast(build.add("ReduceMin", build.cast(same, TensorProto.INT64)), TensorProto.BOOL)


def _frame(build: _Builder, height: str, width: str, preprocess: Preprocess) -> tuple[str, str]:
    """(top, left), (bottom, right) of `Preprocess._frame`, int64 [2] each."""
    assert preprocess.size is not None
    crop, one = build.constant([preprocess.crop], np.float64), preprocess.size[0] / preprocess.size[1]
    part_height = build.add("Mul", build.add("Min", height, build.add("Mul", width, build.constant([one], np.float64))), crop)
    part_width = build.add("Mul", build.add("Min", width, build.add("Mul", height, build.constant([1 / one], np.float64))), crop)
    whole, part = build.joined(height, width), build.joined(part_height, part_width)
    two = build.constant([2.0, 2.0], np.float64)
    edges = (build.add("Div", build.add(operator, whole, part), two) for operator in ("Sub", "Add"))
    first, last = (build.cast(build.add("Round", edge), TensorProto.INT64) for edge in edges)
    return first, last


def _slice(build: _Builder, value: str, first: str, last: str) -> str:
    return build.add("Slice", value, first, last, build.constant([2, 3], np.int64))


def _resize(build: _Builder, value: str, sizes: str, preprocess: Preprocess, rounded: bool) -> str:
    """To so many pixels; 8-bit pictures stay whole numbers from 0 to 255."""
    batch = build.add("Slice", build.add("Shape", value), build.constant([0], np.int64), build.constant([2], np.int64))
    value = build.add("Resize", value, "", "", build.joined(batch, sizes), attributes=_MODES[preprocess.interpolation])
    if not rounded:
        return value
    return build.add("Clip", build.add("Round", value), build.constant(0, np.float32), build.constant(255, np.float32))
