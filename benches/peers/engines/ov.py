"""OpenVINO's CPU plugin: f32, bf16, and nncf's compressed weights with bf16."""

import time

import numpy as np
import openvino

from . import ov_graph, token_ids


def prepare(checkpoint, target, precision):
    model = compressed(ov_graph.build(checkpoint), precision)
    target.mkdir()
    openvino.save_model(model, target / "model.xml", compress_to_fp16=False)


def compressed(model, precision):
    if not precision.startswith("int"):
        return model
    # Here, since nncf is slow to import and only conversion needs it.
    import nncf

    modes = {
        "int8": {"mode": nncf.CompressWeightsMode.INT8_ASYM},
        "int4": {"mode": nncf.CompressWeightsMode.INT4_ASYM, "group_size": 64},
    }
    return nncf.compress_weights(model, **modes[precision])


def load(target, precision, threads):
    return OpenVino(target, hint(precision), threads)


def hint(precision):
    """What it computes in."""
    return "f32" if precision.startswith("f32") else "bf16"


class OpenVino:
    version = openvino.get_version()

    def __init__(self, target, hint, threads):
        options = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": hint,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        model = openvino.Core().compile_model(target / "model.xml", "CPU", options)
        used = model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if used != hint:
            raise RuntimeError(f"asked for {hint}, would compute in {used}")
        self.request = model.create_infer_request()

    def decode(self, batch, prompt, tokens):
        self.request.reset_state()
        self.step(np.array([token_ids(prompt, s) for s in range(batch)]), 0)
        ids = token_ids(tokens)
        started = time.perf_counter()
        for step in range(tokens):
            self.step(np.full((batch, 1), ids[step]), prompt + step)
        return time.perf_counter() - started

    def prefill(self, tokens):
        self.request.reset_state()
        ids = np.array([token_ids(tokens)])
        started = time.perf_counter()
        self.step(ids, 0)
        return time.perf_counter() - started

    def logits(self, ids):
        # In two steps, so that the kept keys are checked too.
        self.request.reset_state()
        cut = len(ids) // 2
        self.step(np.array([ids[:cut]]), 0)
        self.step(np.array([ids[cut:]]), cut)
        return self.request.get_tensor("logits").data[0, -1].astype(np.float32)

    def step(self, ids, past):
        batch, tokens = ids.shape
        positions = np.arange(past, past + tokens)
        later = np.arange(past + tokens)[None, :] > positions[:, None]
        feed = {
            "input_ids": ids.astype(np.int64),
            "position_ids": np.tile(positions, (batch, 1)).astype(np.int64),
            "mask": np.where(later, np.float32(-1e30), np.float32(0))[None, None],
            "beam_idx": np.arange(batch, dtype=np.int32),
        }
        self.request.infer(feed, share_inputs=True)
