"""PyTorch: transformers' GPT-2 in a loop of our own over its KV cache."""

import time

import torch
import transformers

from . import token_ids


def prepare(checkpoint, target, precision):
    target.symlink_to(checkpoint.resolve(), target_is_directory=True)


def load(target, precision, threads):
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    return PyTorch(target, getattr(torch, precision))


class PyTorch:
    version = f"{torch.__version__}, transformers {transformers.__version__}"

    def __init__(self, target, dtype):
        self.model = transformers.GPT2LMHeadModel.from_pretrained(
            str(target), dtype=dtype, attn_implementation="sdpa"
        ).eval()

    def decode(self, batch, prompt, tokens):
        cache = transformers.DynamicCache()
        self.step([token_ids(prompt, s) for s in range(batch)], cache)
        ids = token_ids(tokens)
        started = time.perf_counter()
        for step in range(tokens):
            self.step([[ids[step]]] * batch, cache)
        return time.perf_counter() - started

    def prefill(self, tokens):
        ids = [token_ids(tokens)]
        started = time.perf_counter()
        self.step(ids, transformers.DynamicCache())
        return time.perf_counter() - started

    def logits(self, ids):
        return self.step([ids], transformers.DynamicCache())[0, -1].float().numpy()

    def step(self, ids, cache):
        ids = torch.tensor(ids)
        out = self.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return out.logits
