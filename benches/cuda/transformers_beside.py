"""transformers at its fastest on the same GPU, in bf16: decoding one sequence with
a static cache under torch.compile with CUDA graphs, and prompts of 64 × 512
tokens. Also the rate of cuBLAS on a large product, for the share of it that
prompts reach.

Needs torch and transformers; `--device cpu --mode default --small` tries the
script where there is no GPU.
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
parser.add_argument("--small", action="store_true", help="little work in each measurement")
args = parser.parse_args()

torch.manual_seed(5)
config = GPT2Config()
model = GPT2LMHeadModel(config).to(args.device, torch.bfloat16).eval()


def wait():
    if args.device == "cuda":
        torch.cuda.synchronize()


def median_seconds(work):
    """Of several runs, after two that compile, record graphs, or find caches cold."""
    seconds = []
    for _ in range(2 + args.runs):
        wait()
        started = time.perf_counter()
        work()
        wait()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[2:])


def matrix_rate():
    size = 256 if args.small else 8192
    a, b = (torch.randn(size, size, device=args.device, dtype=torch.bfloat16) for _ in range(2))
    count = 10

    def work():
        for _ in range(count):
            torch.matmul(a, b)

    return 2 * size**3 * count / median_seconds(work)


@torch.inference_mode()
def prompts(count, tokens):
    """Tokens per second of prompts together, to the logits of their last tokens."""
    ids = torch.randint(config.vocab_size, (count, tokens), device=args.device)
    return count * tokens / median_seconds(lambda: model(ids, logits_to_keep=1))


def decode_one(input_ids, cache):
    logits = model(input_ids, past_key_values=cache, use_cache=True).logits
    return logits[:, -1:].argmax(-1)


step = torch.compile(decode_one, mode=args.mode)


@torch.inference_mode()
def decode():
    """Tokens per second after a prompt of 32."""
    seconds = []
    # One for all runs: for another cache, the step would be compiled again.
    cache = StaticCache(config=config, max_cache_len=config.n_positions)
    for _ in range(2 + args.runs):
        cache.reset()
        prompt = torch.arange(32, device=args.device)[None]
        token = decode_one(prompt, cache)
        wait()
        started = time.perf_counter()
        for _ in range(args.tokens):
            token = step(token, cache).clone()
        wait()
        seconds.append(time.perf_counter() - started)
    return args.tokens / statistics.median(seconds[2:])


print(f"cuBLAS, a large bf16 product: {matrix_rate() / 1e12:.1f} TFLOP/s")
count, length = (2, 64) if args.small else (64, 512)
rate = prompts(count, length)
# The blocks' matrices, as `gpt2 bench` counts them.
operations = 2 * 12 * config.n_embd**2 * config.n_layer
print(
    f"transformers, prompts of {count} x {length}: {rate:.0f} tokens/s, "
    f"{rate * operations / 1e12:.1f} TFLOP/s"
)
print(
    f"transformers, static cache, torch.compile({args.mode}): {decode():.1f} tokens/s", flush=True
)
