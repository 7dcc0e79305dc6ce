"""GPT-2 with past keys as an ONNX graph of ONNX Runtime's own fused operators.

Written by hand, as ONNX Runtime's transformer optimiser would leave it, since
an export through torch keeps unfused attention and is slower.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

FUSED = "com.microsoft"
LAYERS, HEADS, HEAD_SIZE, VOCAB = 12, 12, 64, 50257


class Graph:
    """A graph that grows by one operator at a time; values are their names."""

    def __init__(self, checkpoint):
        weights = load_file(checkpoint / "model.safetensors")
        self.weights = {k.removeprefix("transformer."): v for k, v in weights.items()}
        self.nodes, self.constants, self.inputs, self.outputs = [], [], [], []

    def weight(self, name):
        return self.constant(name, self.weights[name])

    def constant(self, name, value):
        value = np.ascontiguousarray(value)
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def input(self, name, kind, shape):
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, name, shape):
        info = helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        self.outputs.append(info)

    def add(self, operator, inputs, outputs, **attributes):
        outputs = [outputs] if isinstance(outputs, str) else outputs
        node = helper.make_node(
            operator, inputs, outputs, name=f"{outputs[0]}.node", **attributes
        )
        self.nodes.append(node)
        return outputs[0]

    def model(self):
        graph = helper.make_graph(
            self.nodes, "gpt2", self.inputs, self.outputs, self.constants
        )
        versions = [helper.make_opsetid("", 17), helper.make_opsetid(FUSED, 1)]
        return helper.make_model(graph, opset_imports=versions, ir_version=9)


def write(checkpoint, target):
    graph = Graph(checkpoint)
    residual = embedding(graph)
    scale, shift = graph.weight("h.0.ln_1.weight"), graph.weight("h.0.ln_1.bias")
    normed = graph.add(
        "LayerNormalization", [residual, scale, shift], "normed.0", epsilon=1e-5
    )
    for layer in range(LAYERS):
        normed, residual = block(graph, layer, normed, residual)
    head(graph, normed)
    onnx.save(graph.model(), str(target))


def embedding(graph):
    ids = graph.input("input_ids", TensorProto.INT64, ["B", "T"])
    positions = graph.input("position_ids", TensorProto.INT64, ["B", "T"])
    tokens = graph.add("Gather", [graph.weight("wte.weight"), ids], "tokens")
    places = graph.add("Gather", [graph.weight("wpe.weight"), positions], "places")
    return graph.add("Add", [tokens, places], "residual.0")


def block(graph, layer, normed, residual):
    """One block and the layer norm that follows it."""
    attended = attention(graph, layer, normed)
    at = f"h.{layer}."
    after = f"h.{layer + 1}.ln_1" if layer + 1 < LAYERS else "ln_f"
    projected = linear(graph, at + "attn.c_proj", attended)
    bias = at + "attn.c_proj.bias"
    normed, residual = add_and_norm(graph, projected, residual, bias, at + "ln_2")
    wide = linear(graph, at + "mlp.c_fc", normed)
    shift = graph.weight(at + "mlp.c_fc.bias")
    active = graph.add("FastGelu", [wide, shift], at + "gelu", domain=FUSED)
    narrow = linear(graph, at + "mlp.c_proj", active)
    return add_and_norm(graph, narrow, residual, at + "mlp.c_proj.bias", after)


def attention(graph, layer, normed):
    at = f"h.{layer}.attn.c_attn"
    kept = [2, "B", HEADS, "P", HEAD_SIZE]
    past = graph.input(f"past_{layer}", TensorProto.FLOAT, kept)
    graph.output(f"present_{layer}", [2, "B", HEADS, "P+T", HEAD_SIZE])
    weight, bias = graph.weight(at + ".weight"), graph.weight(at + ".bias")
    return graph.add(
        "Attention",
        [normed, weight, bias, "", past],
        [f"h.{layer}.attended", f"present_{layer}"],
        domain=FUSED,
        num_heads=HEADS,
        unidirectional=1,
    )


def linear(graph, at, x):
    return graph.add("MatMul", [x, graph.weight(at + ".weight")], at + ".product")


def add_and_norm(graph, x, residual, bias, norm):
    """(x + bias + residual) normed, and itself."""
    normed, summed = f"{norm}.normed", f"{norm}.residual"
    scale, shift = graph.weight(norm + ".weight"), graph.weight(norm + ".bias")
    inputs = [x, residual, scale, shift, graph.weight(bias)]
    outputs = [normed, "", "", summed]
    graph.add(
        "SkipLayerNormalization", inputs, outputs, domain=FUSED, epsilon=1e-5
    )
    return normed, summed


def head(graph, normed):
    """Logits of the last row only."""
    bounds = {"from": [-1], "to": [2**62], "axis": [1]}
    bounds = [graph.constant(k, np.array(v, np.int64)) for k, v in bounds.items()]
    last = graph.add("Slice", [normed, *bounds], "last_row")
    weight = graph.constant("head.weight", graph.weights["wte.weight"].T)
    graph.add("MatMul", [last, weight], "logits")
    graph.outputs.insert(
        0, helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", 1, VOCAB])
    )
