"""GPT-2 as a stateful OpenVINO model.

Written by hand in the form that optimum-intel exports (keys and values in
variables, gathered by beam, concatenated, then scaled dot product attention),
because that is the pattern the CPU plugin fuses.
"""

import numpy as np
import openvino
from openvino import opset13 as ops
from safetensors.numpy import load_file

LAYERS, HEADS, HEAD_SIZE, WIDTH = 12, 12, 64, 768


def build(checkpoint, builder=None):
    weights = load_file(checkpoint / "model.safetensors")
    weights = {k.removeprefix("transformer."): v for k, v in weights.items()}
    return (builder or Builder)(weights).model()


class Builder:
    def __init__(self, weights):
        self.weights = weights
        self.ids = parameter("input_ids", [-1, -1], np.int64)
        self.positions = parameter("position_ids", [-1, -1], np.int64)
        self.mask_input, self.mask = self.masks()
        self.beams = parameter("beam_idx", [-1], np.int32)
        self.assigns = []
        batch = ops.gather(ops.shape_of(self.ids), integers([0]), integers(0))
        sizes = [batch, integers([HEADS]), integers([0]), integers([HEAD_SIZE])]
        self.empty_past = ops.broadcast(
            ops.constant(np.float32(0)), ops.concat(sizes, 0)
        )

    def model(self):
        # One constant for embedding and head, as they are tied.
        table = ops.constant(self.weights["wte.weight"])
        tokens = ops.gather(table, self.ids, integers(0))
        places = ops.constant(self.weights["wpe.weight"])
        x = ops.add(tokens, ops.gather(places, self.positions, integers(0)))
        for layer in range(LAYERS):
            x = self.block(x, layer)
        logits = ops.matmul(self.norm(self.wanted(x), "ln_f"), table, False, True)
        logits.output(0).get_tensor().set_names({"logits"})
        inputs = [self.ids, self.positions, self.mask_input, self.beams]
        results = [ops.result(logits)]
        return openvino.Model(results, self.assigns, inputs, "gpt2")

    def masks(self):
        """The input, and what is added to scores: [1, 1, tokens, past + tokens]."""
        mask = parameter("mask", [1, 1, -1, -1], np.float32)
        return mask, mask

    def wanted(self, x):
        """The rows that get logits: the last of each sequence."""
        ends = [integers([n]) for n in (-1, 2**31 - 1, 1, 1)]
        return ops.slice(x, *ends)

    def block(self, x, layer):
        at = f"h.{layer}."
        qkv = self.linear(self.norm(x, at + "ln_1"), at + "attn.c_attn")
        q, k, v = (heads(part) for part in ops.split(qkv, integers(2), 3).outputs())
        k, v = self.kept(f"key.{layer}", k), self.kept(f"value.{layer}", v)
        attended = ops.scaled_dot_product_attention(q, k, v, self.mask)
        attended = ops.transpose(attended, integers([0, 2, 1, 3]))
        attended = ops.reshape(attended, integers([0, 0, WIDTH]), True)
        x = ops.add(x, self.linear(attended, at + "attn.c_proj"))
        wide = self.linear(self.norm(x, at + "ln_2"), at + "mlp.c_fc")
        return ops.add(x, self.linear(ops.gelu(wide, "tanh"), at + "mlp.c_proj"))

    def kept(self, name, new):
        """Past and new keys or values, which become the next past."""
        shape = openvino.PartialShape([-1, HEADS, -1, HEAD_SIZE])
        past = ops.read_value(self.empty_past, name, np.float32, shape)
        past = ops.gather(past, self.beams, integers(0))
        both = ops.concat([past, new], 2)
        self.assigns.append(ops.assign(both, name))
        return both

    def linear(self, x, at):
        weight = np.ascontiguousarray(self.weights[at + ".weight"].T)
        product = ops.matmul(x, ops.constant(weight), False, True)
        return ops.add(product, ops.constant(self.weights[at + ".bias"]))

    def norm(self, x, at):
        normed = ops.mvn(x, integers([-1]), True, 1e-5, "INSIDE_SQRT")
        scaled = ops.multiply(normed, ops.constant(self.weights[at + ".weight"]))
        return ops.add(scaled, ops.constant(self.weights[at + ".bias"]))


class PagedBuilder(Builder):
    """As openvino-genai takes it, which puts its own attention over a block
    table in place of states and mask, and picks the rows that get logits."""

    def masks(self):
        kept = parameter("attention_mask", [-1, -1], np.int64)
        left_out = ops.subtract(ops.convert(kept, "f32"), ops.constant(np.float32(1)))
        left_out = ops.unsqueeze(left_out, integers([1, 2]))
        return kept, ops.multiply(left_out, ops.constant(np.float32(1e30)))

    def wanted(self, x):
        return x


def parameter(name, shape, kind):
    made = ops.parameter(shape, kind, name=name)
    made.output(0).get_tensor().set_names({name})
    return made


def integers(values):
    return ops.constant(np.array(values, np.int64))


def heads(x):
    """[batch, tokens, width] -> [batch, heads, tokens, head size]"""
    split = ops.reshape(x, integers([0, 0, HEADS, HEAD_SIZE]), True)
    return ops.transpose(split, integers([0, 2, 1, 3]))
