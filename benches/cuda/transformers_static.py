"""Decoding with transformers at its fastest: bf16, a static cache, one sequence,
under torch.compile with CUDA graphs. Prints tokens per second.

Needs torch and transformers; `--device cpu --mode default` tries the script
where there is no GPU.
"""

import argparse
import statistics
import time

import torch
from transformers import GPT2Config, GPT2LMHeadModel, StaticCache

parser = argparse.ArgumentParser()
parser.add_argument("--device", default="cuda")
parser.add_argument("--mode", default="reduce-overhead")
parser.add_argument("--tokens", type=int, default=128)
parser.add_argument("--runs", type=int, default=5)
args = parser.parse_args()

torch.manual_seed(5)
config = GPT2Config()
model = GPT2LMHeadModel(config).to(args.device, torch.bfloat16).eval()


def decode(input_ids, cache, position):
    logits = model(
        input_ids, past_key_values=cache, cache_position=position, use_cache=True
    ).logits
    return logits[:, -1:].argmax(-1)


step = torch.compile(decode, mode=args.mode)


@torch.inference_mode()
def run():
    """Seconds that the tokens after a prompt of 32 take."""
    cache = StaticCache(config=config, max_cache_len=config.n_positions)
    prompt = torch.arange(32, device=args.device)[None]
    token = decode(prompt, cache, torch.arange(32, device=args.device))
    wait()
    started = time.perf_counter()
    for i in range(args.tokens):
        position = torch.tensor([32 + i], device=args.device)
        token = step(token, cache, position).clone()
    wait()
    return time.perf_counter() - started


def wait():
    if args.device == "cuda":
        torch.cuda.synchronize()


for _ in range(2):
    run()  # Compiles, and records its graphs.
seconds = statistics.median(run() for _ in range(args.runs))
print(f"transformers, static cache, torch.compile({args.mode}): {args.tokens / seconds:.1f} tokens/s")
