"""ONNX Runtime with past keys: f32, and its dynamic int8 quantisation."""

import time

import numpy as np
import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic

from . import onnx_graph, token_ids
from .onnx_graph import HEAD_SIZE, HEADS, LAYERS

value = onnxruntime.OrtValue.ortvalue_from_numpy


def prepare(checkpoint, target, precision):
    if precision == "f32":
        onnx_graph.write(checkpoint, target)
        return
    full = target.with_suffix(".full")
    onnx_graph.write(checkpoint, full)
    quantize_dynamic(
        str(full),
        str(target),
        op_types_to_quantize=["MatMul", "Attention"],
        weight_type=QuantType.QInt8,
        extra_options={"DefaultTensorType": 1},
    )
    full.unlink()


def load(target, precision, threads):
    return OnnxRuntime(target, threads)


class OnnxRuntime:
    version = onnxruntime.__version__

    def __init__(self, target, threads):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            str(target), options, providers=["CPUExecutionProvider"]
        )
        self.outputs = [output.name for output in self.session.get_outputs()]

    def decode(self, batch, prompt, tokens):
        prompts = np.array([token_ids(prompt, s) for s in range(batch)])
        _, past = self.step(prompts, 0, no_past(batch))
        ids = token_ids(tokens)
        started = time.perf_counter()
        for step in range(tokens):
            column = np.full((batch, 1), ids[step])
            _, past = self.step(column, prompt + step, past)
        return time.perf_counter() - started

    def prefill(self, tokens):
        ids = np.array([token_ids(tokens)])
        started = time.perf_counter()
        self.step(ids, 0, no_past(1))
        return time.perf_counter() - started

    def logits(self, ids):
        # In two steps, so that past keys are checked too.
        cut = len(ids) // 2
        _, past = self.step(np.array([ids[:cut]]), 0, no_past(1))
        logits, _ = self.step(np.array([ids[cut:]]), cut, past)
        return logits.numpy()[0, -1]

    def step(self, ids, first_position, past):
        batch, tokens = ids.shape
        positions = np.arange(first_position, first_position + tokens)
        feed = {
            "input_ids": value(ids.astype(np.int64)),
            "position_ids": value(np.tile(positions, (batch, 1)).astype(np.int64)),
        }
        feed |= {f"past_{layer}": kept for layer, kept in enumerate(past)}
        logits, *present = self.session.run_with_ort_values(self.outputs, feed)
        return logits, present


def no_past(batch):
    empty = np.zeros((2, batch, HEADS, 0, HEAD_SIZE), np.float32)
    return [value(empty) for _ in range(LAYERS)]
