#!/usr/bin/env python3
"""Log probabilities of gpt2 beside transformers', on the checkpoint of run.py.

Each precision of ours, and transformers' own bf16, is compared with
transformers' f32: mean and largest difference over some random texts.
"""

import argparse
import json
import subprocess
from pathlib import Path

import client
import numpy
import torch
from transformers import GPT2LMHeadModel

ROOT = client.HERE.parent.parent
TEXTS, TOKENS = 4, 128
WIDTHS = ("f32", "bf16", "q8", "q4")


def main():
    args = parse_args()
    client.prepare("checkpoint", args.work)
    folder = args.work / "checkpoint"
    texts = torch.randint(50257, (TEXTS, TOKENS), generator=torch.manual_seed(0))
    exact = theirs(folder, texts, torch.float32)
    print(f"{TEXTS} texts of {TOKENS} random ids, against transformers in f32:")
    show("transformers bf16", theirs(folder, texts, torch.bfloat16), exact)
    for width in WIDTHS:
        show(f"gpt2 {width}", ours(args.binary, folder, texts, width), exact)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / "target/peers")
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/gpt2")
    return parser.parse_args()


def theirs(folder, texts, dtype):
    """Log probabilities of every token but the first, `[TEXTS, TOKENS - 1]`."""
    model = GPT2LMHeadModel.from_pretrained(folder, dtype=dtype).eval()
    with torch.no_grad():
        # The softmax itself in f32, as ours is: it is the model that is compared.
        logits = model(texts).logits.float().log_softmax(-1)
    return logits[:, :-1].gather(-1, texts[:, 1:, None])[..., 0].numpy()


def ours(binary, folder, texts, width):
    rows = []
    for ids in texts.tolist():
        command = [binary, "score", "--model", folder, "--dtype", width, "--json"]
        command += ["--ids", ",".join(map(str, ids))]
        answer = json.loads(subprocess.check_output(command))
        rows.append([token["logprob"] for token in answer["tokens"][1:]])
    return numpy.array(rows)


def show(name, found, exact):
    difference = numpy.abs(found - exact)
    print(f"{name:<18} mean {difference.mean():.2e}  largest {difference.max():.2e}")


if __name__ == "__main__":
    main()
