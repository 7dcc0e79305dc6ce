"""The checkpoint that all engines run: GPT-2 124M with random weights.

Speed doesn't depend on what the weights are, and random ones need no download.
"""

import json

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import check

SEED = 0


def write(target):
    """Writes weights, tokenizer and the logits that conversions are checked by."""
    torch.manual_seed(SEED)
    model = GPT2LMHeadModel(GPT2Config()).eval()
    model.save_pretrained(target)
    write_tokenizer(target)
    with torch.no_grad():
        logits = model(torch.tensor([check.IDS])).logits[0, -1]
    np.save(target / check.LOGITS, logits.numpy())


def write_tokenizer(target):
    """A byte-level BPE of GPT-2's size whose tokens are pairs of bytes.

    Nobody tokenises here, but converters want a vocabulary they can load:
    256 bytes, 50,000 merges of two, one end of text.
    """
    symbols = byte_symbols()
    pairs = [(a, b) for a in symbols for b in symbols][:50_000]
    tokens = symbols + [a + b for a, b in pairs] + ["<|endoftext|>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    merges = "\n".join(["#version: 0.2", *(f"{a} {b}" for a, b in pairs)]) + "\n"
    config = {
        "tokenizer_class": "GPT2Tokenizer",
        "model_max_length": 1024,
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
    }
    (target / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (target / "merges.txt").write_text(merges, encoding="utf-8")
    (target / "tokenizer_config.json").write_text(json.dumps(config))


def byte_symbols():
    """GPT-2's printable stand-ins for the 256 bytes, printable bytes first."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = 256 - len(printable)
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(rest)]
