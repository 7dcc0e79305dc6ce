"""The peers: which engines there are, at which widths, from which modules.

Nothing here imports an engine, so that one that is not installed costs only
its own rows. Each module named below has two functions:

    prepare(checkpoint, target, precision)   converts; writes the path `target`
    load(target, precision, threads)         returns an object with

        version            text
        decode(batch, prompt, tokens)   seconds of `tokens` steps of `batch` streams
        prefill(tokens)                 seconds to the logits of the last token
        logits(ids)                     the last token's logits, for the check
        serve(load)                     answers an OpenLoad (those in SERVING)

Instead of logits it may show its choice(ids): the likeliest token and its log
probability.
"""

from dataclasses import dataclass

OURS = "gpt2"
WIDTHS = ("f32", "bf16", "q8", "q4")


@dataclass(frozen=True)
class Peer:
    """One engine at one precision."""

    engine: str
    precision: str  # in the engine's own words
    width: str  # the column of ours it competes with
    module: str

    @property
    def name(self):
        return f"{self.engine} {self.precision}"

    @property
    def slug(self):
        return self.name.replace(" ", "-").lower()


PEERS = (
    Peer("llama.cpp", "F32", "f32", "llama"),
    Peer("llama.cpp", "F16", "bf16", "llama"),
    Peer("llama.cpp", "BF16", "bf16", "llama"),
    Peer("llama.cpp", "Q8_0", "q8", "llama"),
    Peer("llama.cpp", "Q4_0", "q4", "llama"),
    Peer("llama.cpp", "Q4_K_M", "q4", "llama"),
    Peer("ctranslate2", "float32", "f32", "ct2"),
    Peer("ctranslate2", "bfloat16", "bf16", "ct2"),
    Peer("ctranslate2", "int8", "q8", "ct2"),
    Peer("onnxruntime", "f32", "f32", "ort"),
    Peer("onnxruntime", "int8", "q8", "ort"),
    Peer("openvino", "f32", "f32", "ov"),
    Peer("openvino", "bf16", "bf16", "ov"),
    Peer("openvino", "int8", "q8", "ov"),
    Peer("openvino", "int4", "q4", "ov"),
    Peer("torch", "float32", "f32", "pytorch"),
    Peer("torch", "bfloat16", "bf16", "pytorch"),
)

# Those that compute many requests at a time, or could.
SERVING = (
    *(peer for peer in PEERS if peer.engine in ("llama.cpp", "ctranslate2")),
    Peer("openvino-genai", "f32", "f32", "ov_genai"),
    Peer("openvino-genai", "f32-kv8", "f32", "ov_genai"),
    Peer("openvino-genai", "bf16", "bf16", "ov_genai"),
    Peer("openvino-genai", "int8", "q8", "ov_genai"),
)


def token_ids(count, first=0):
    """Some ids. Which ones doesn't matter for speed; every engine gets these,
    and no engine has to choose its next token unless it can't help it."""
    return [(first + i) * 7919 % 50257 for i in range(count)]
