"""BERT as an ONNX graph, written operation by operation against `training/bert.py`.

A traced export depends on what the exporter makes of masks and attention kernels; a graph written
out does not. It is checked against sentence-transformers (embedder) and torch (verifier).
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from training.bert import Bert, CrossEncoder

OPSET = 20
Array = NDArray[np.float32]


class _Graph:
    """Collects nodes and weights; every method returns the name of what it computes."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, value: NDArray[np.generic], name: str = "") -> str:
        name = name or f"const_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value.copy(order="C"), name))
        return name

    def add(self, operation: str, *inputs: str, output: str = "", **attributes: object) -> str:
        output = output or f"{operation.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, list(inputs), [output], **attributes))
        return output

    def linear(self, states: str, weight: Array, bias: Array, name: str) -> str:
        product = self.add("MatMul", states, self.constant(weight.T, f"{name}_weight"))
        return self.add("Add", product, self.constant(bias))

    def norm(self, states: str, weight: Array, bias: Array, epsilon: float) -> str:
        scale, shift = self.constant(weight), self.constant(bias)
        return self.add("LayerNormalization", states, scale, shift, axis=-1, epsilon=epsilon)


def _hidden_states(graph: _Graph, bert: Bert) -> str:
    """Nodes from `ids`, `types` and `mask` to hidden states (batch, length, width)."""
    shape = bert.shape
    stored = {name: tensor.numpy() for name, tensor in bert.state_dict().items()}
    words = graph.add("Gather", graph.constant(stored["words.weight"], "words"), "ids")
    kinds = graph.add("Gather", graph.constant(stored["types.weight"], "kinds"), "types")
    length = graph.add("Shape", "ids", start=1, end=2)
    zero, axis = graph.constant(np.array([0], np.int64)), graph.constant(np.array([0], np.int64))
    places = graph.add(
        "Slice", graph.constant(stored["positions.weight"], "places"), zero, length, axis
    )
    hidden = graph.add("Add", graph.add("Add", words, kinds), places)
    hidden = graph.norm(hidden, stored["norm.weight"], stored["norm.bias"], shape.epsilon)
    inverse = graph.add(
        "Sub",
        graph.constant(np.array(1, np.float32)),
        graph.add("Cast", "mask", to=TensorProto.FLOAT),
    )
    flat = graph.add("Mul", inverse, graph.constant(np.array(-1e4, np.float32)))
    bias = graph.add("Unsqueeze", flat, graph.constant(np.array([1, 2], np.int64)))
    split = graph.constant(np.array([0, 0, shape.heads, shape.width // shape.heads], np.int64))
    merge = graph.constant(np.array([0, 0, shape.width], np.int64))
    # The scale goes into the query's weights: one operation fewer, the same numbers.
    scale = np.float32(1 / math.sqrt(shape.width // shape.heads))

    def heads(states: str, permutation: list[int]) -> str:
        return graph.add("Transpose", graph.add("Reshape", states, split), perm=permutation)

    for index in range(shape.layers):

        def part(name: str, index: int = index) -> tuple[Array, Array]:
            return stored[f"layers.{index}.{name}.weight"], stored[f"layers.{index}.{name}.bias"]

        weight, offset = part("query")
        query = graph.linear(hidden, weight * scale, offset * scale, f"query{index}")
        key = graph.linear(hidden, *part("key"), f"key{index}")
        value = graph.linear(hidden, *part("value"), f"value{index}")
        raw = graph.add("MatMul", heads(query, [0, 2, 1, 3]), heads(key, [0, 2, 3, 1]))
        weights = graph.add("Softmax", graph.add("Add", raw, bias), axis=-1)
        mixed = graph.add("MatMul", weights, heads(value, [0, 2, 1, 3]))
        joined = graph.add("Reshape", graph.add("Transpose", mixed, perm=[0, 2, 1, 3]), merge)
        output = graph.linear(joined, *part("output"), f"output{index}")
        hidden = graph.norm(
            graph.add("Add", hidden, output), *part("attention_norm"), shape.epsilon
        )
        inner = graph.add("Gelu", graph.linear(hidden, *part("up"), f"up{index}"))
        down = graph.linear(inner, *part("down"), f"down{index}")
        hidden = graph.norm(graph.add("Add", hidden, down), *part("output_norm"), shape.epsilon)
    return hidden


def embedder_graph(bert: Bert) -> onnx.ModelProto:
    """Mean over the tokens that the mask admits, normalised: output `embedding` (batch, width)."""
    graph = _Graph()
    hidden = _hidden_states(graph, bert)
    mask = graph.add("Cast", "mask", to=TensorProto.FLOAT)
    weights = graph.add("Unsqueeze", mask, graph.constant(np.array([1], np.int64)))
    total = graph.add("MatMul", weights, hidden)  # (batch, 1, width); the norm makes it the mean
    flat = graph.add("Squeeze", total, graph.constant(np.array([1], np.int64)))
    graph.add("LpNormalization", flat, axis=-1, p=2, output="embedding")
    return _model(graph, "embedding", ["batch", bert.shape.width])


def _mean(graph: _Graph, hidden: str, weights: str) -> str:
    """The mean of `hidden` over the tokens that `weights` (batch, length) admits."""
    axis = graph.constant(np.array([1], np.int64))
    total = graph.add("MatMul", graph.add("Unsqueeze", weights, axis), hidden)
    count = graph.add("ReduceSum", weights, axis, keepdims=1)
    return graph.add("Div", graph.add("Squeeze", total, axis), count)


def verifier_graph(model: CrossEncoder) -> onnx.ModelProto:
    """Output `score` (batch,): the probability that one answer serves both texts."""
    graph = _Graph()
    hidden = _hidden_states(graph, model.bert)
    first = graph.add("Gather", hidden, graph.constant(np.array(0, np.int64)), axis=1)  # [CLS]
    boundary = graph.constant(np.array(model.bert.shape.token_types // 2, np.int64))
    real = graph.add("Cast", "mask", to=TensorProto.FLOAT)
    second = graph.add("GreaterOrEqual", "types", boundary)
    in_b = graph.add("Mul", real, graph.add("Cast", second, to=TensorProto.FLOAT))
    a, b = _mean(graph, hidden, graph.add("Sub", real, in_b)), _mean(graph, hidden, in_b)
    apart, agree = graph.add("Abs", graph.add("Sub", a, b)), graph.add("Mul", a, b)
    seen = graph.add("Concat", first, apart, agree, axis=-1)
    dense = graph.linear(
        seen, model.dense.weight.detach().numpy(), model.dense.bias.detach().numpy(), "dense"
    )
    logit = graph.linear(
        graph.add("Tanh", dense),
        model.score.weight.detach().numpy(),
        model.score.bias.detach().numpy(),
        "score",
    )
    flat = graph.add("Squeeze", logit, graph.constant(np.array([1], np.int64)))
    graph.add("Sigmoid", flat, output="score")
    return _model(graph, "score", ["batch"])


def _model(graph: _Graph, output: str, shape: list[str | int]) -> onnx.ModelProto:
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
        for name in ("ids", "types", "mask")
    ]
    result = helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)
    built = helper.make_model(
        helper.make_graph(graph.nodes, "bert", inputs, [result], graph.weights),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=10,
    )
    onnx.checker.check_model(built)
    return built


def save_int8(model: onnx.ModelProto, path: Path) -> None:
    """Write `model` with int8 weights (activations quantised as they come) to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exact = path.with_suffix(".float.onnx")
    onnx.save(model, exact)
    quantize_dynamic(
        exact,
        path,
        op_types_to_quantize=["MatMul", "Gather"],
        per_channel=True,
        weight_type=QuantType.QInt8,
    )
    exact.unlink()
