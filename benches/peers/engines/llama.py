"""llama.cpp, through the C interface that llama-cpp-python builds and binds."""

import ctypes
import json
import time
from collections import deque

import gguf
import llama_cpp as lib
import numpy as np
from safetensors.numpy import load_file

from . import token_ids

FILE_TYPES = {
    "F16": lib.LLAMA_FTYPE_MOSTLY_F16,
    "BF16": lib.LLAMA_FTYPE_MOSTLY_BF16,
    "Q8_0": lib.LLAMA_FTYPE_MOSTLY_Q8_0,
    "Q4_0": lib.LLAMA_FTYPE_MOSTLY_Q4_0,
    "Q4_K_M": lib.LLAMA_FTYPE_MOSTLY_Q4_K_M,
}
# Checkpoint name -> GGUF name, inside a block.
BLOCK_NAMES = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
# Of serving: sequences at a time, and rows of one call. Of 8, 16 and 32, and
# 512 and 2048, the best for its tokens per second.
SLOTS, BATCH = 8, 512
CONTEXT_STEP = 256  # llama.cpp rounds a sequence's room up to this


def prepare(checkpoint, target, precision):
    if precision == "F32":
        write_f32(checkpoint, target)
        return
    full = target.with_suffix(".full")
    write_f32(checkpoint, full)
    params = lib.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[precision]
    params.nthread = 1
    source, made = str(full).encode(), str(target).encode()
    status = lib.llama_model_quantize(source, made, ctypes.byref(params))
    full.unlink()
    if status != 0:
        raise RuntimeError(f"llama_model_quantize answered {status}")


def write_f32(checkpoint, target):
    config = json.loads((checkpoint / "config.json").read_text())
    writer = gguf.GGUFWriter(str(target), "gpt2")
    writer.add_block_count(config["n_layer"])
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_feed_forward_length(4 * config["n_embd"])
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    writer.add_file_type(lib.LLAMA_FTYPE_ALL_F32)
    add_vocabulary(writer, checkpoint)
    add_tensors(writer, checkpoint)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_vocabulary(writer, checkpoint):
    ids = json.loads((checkpoint / "vocab.json").read_text(encoding="utf-8"))
    tokens = sorted(ids, key=ids.get)
    kinds = [gguf.TokenType.NORMAL] * (len(tokens) - 1) + [gguf.TokenType.CONTROL]
    merges = (checkpoint / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(len(tokens) - 1)
    writer.add_eos_token_id(len(tokens) - 1)


def add_tensors(writer, checkpoint):
    for name, tensor in load_file(checkpoint / "model.safetensors").items():
        name = name.removeprefix("transformer.")
        # Conv1D keeps [in, out]; GGUF wants [out, in].
        if name.startswith("h.") and tensor.ndim == 2:
            tensor = np.ascontiguousarray(tensor.T)
        writer.add_tensor(gguf_name(name), tensor)


def gguf_name(name):
    stem, kind = name.rsplit(".", 1)
    if stem.startswith("h."):
        _, layer, part = stem.split(".", 2)
        return f"blk.{layer}.{BLOCK_NAMES[part]}.{kind}"
    outer = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm"}
    return f"{outer[stem]}.{kind}"


def load(target, precision, threads):
    return Llama(target, threads)


class Sequence:
    """A request in its slot, and how much of it is computed."""

    def __init__(self, slot, number, request):
        self.slot, self.number = slot, number
        self.ids, self.done = list(request.ids), 0

    def next_token(self):
        """Its row once the prompt is computed, else none."""
        return self.rows(1) if self.done == len(self.ids) - 1 else []

    def prompt(self, room):
        return self.rows(max(0, min(room, len(self.ids) - self.done)))

    def rows(self, count):
        start = self.done
        self.done += count
        last = len(self.ids) - 1
        return [(self.ids[i], i, self.slot, i == last) for i in range(start, self.done)]


class Llama:
    version = lib.__version__

    def __init__(self, target, threads):
        lib.llama_backend_init()
        self.threads = threads
        params = lib.llama_model_default_params()
        self.model = lib.llama_model_load_from_file(str(target).encode(), params)
        if not self.model:
            raise RuntimeError(f"llama.cpp can't load {target.name}")
        self.contexts = {}

    def decode(self, batch, prompt, tokens):
        context = self.context(batch, prompt + tokens)
        for sequence in range(batch):
            ids = token_ids(prompt, sequence)
            self.run(context, [(t, i, sequence, False) for i, t in enumerate(ids)])
        ids = token_ids(tokens)
        started = time.perf_counter()
        for step in range(tokens):
            position = prompt + step
            self.run(context, [(ids[step], position, s, True) for s in range(batch)])
        return time.perf_counter() - started

    def prefill(self, tokens):
        context = self.context(1, tokens)
        rows = [(t, i, 0, i == tokens - 1) for i, t in enumerate(token_ids(tokens))]
        started = time.perf_counter()
        self.run(context, rows)
        return time.perf_counter() - started

    def serve(self, load):
        """Continuous batching as its server does it: every step has the next
        token of each sequence, and prompts as far as the batch goes."""
        longest = max(len(r.ids) + r.tokens for r in load.requests)
        context = self.context(SLOTS, longest)
        memory = lib.llama_get_memory(context)
        free, waiting, running = list(range(SLOTS)), deque(), []
        while load.unfinished:
            waiting.extend(load.arrived())
            while free and waiting:
                running.append(Sequence(free.pop(), *waiting.popleft()))
            if not running:
                load.wait()
                continue
            rows = [row for sequence in running for row in sequence.next_token()]
            for sequence in running:
                rows += sequence.prompt(BATCH - len(rows))
            self.run(context, rows)
            chosen = {
                slot: int(self.row(context, i).argmax())
                for i, (_, _, slot, wanted) in enumerate(rows)
                if wanted
            }
            for sequence in [s for s in running if s.slot in chosen]:
                sequence.ids.append(chosen[sequence.slot])
                if load.token(sequence.number):
                    running.remove(sequence)
                    free.append(sequence.slot)
                    lib.llama_memory_seq_rm(memory, sequence.slot, -1, -1)

    def logits(self, ids):
        context = self.context(1, len(ids))
        self.run(context, [(t, i, 0, i == len(ids) - 1) for i, t in enumerate(ids)])
        return self.row(context, -1).copy()

    def row(self, context, index):
        """The logits of a row of the last call, as they lie in its memory."""
        vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model))
        row = lib.llama_get_logits_ith(context, index)
        return np.ctypeslib.as_array(row, shape=(vocab,))

    def context(self, sequences, room):
        """An empty context; kept, so that no measurement pays for first touches."""
        room = -(-room // CONTEXT_STEP) * CONTEXT_STEP
        key = (sequences, room)
        if key not in self.contexts:
            params = lib.llama_context_default_params()
            params.n_ctx = sequences * room
            params.n_seq_max = sequences
            params.n_threads = params.n_threads_batch = self.threads
            context = lib.llama_init_from_model(self.model, params)
            if not context:
                raise RuntimeError(f"llama.cpp can't make a context of {key}")
            self.contexts[key] = context
        lib.llama_memory_clear(lib.llama_get_memory(self.contexts[key]), False)
        return self.contexts[key]

    def run(self, context, rows):
        """One call: rows of (token, position, sequence, whether logits are wanted)."""
        batch = lib.llama_batch_init(len(rows), 0, 1)
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[i] = token
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = wanted
        status = lib.llama_decode(context, batch)
        lib.llama_synchronize(context)
        lib.llama_batch_free(batch)
        if status != 0:
            raise RuntimeError(f"llama_decode answered {status}")
