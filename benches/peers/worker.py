"""One peer in a process of its own.

    worker.py prepare checkpoint --work DIR      makes the checkpoint
    worker.py prepare NAME --work DIR            converts it for a peer
    worker.py serve NAME --work DIR --threads N  measures what stdin asks

`serve` answers one JSON line to each, as `gpt2 bench --repl` does: first
{"ready": true, ...}, then {"seconds": ..., "tokens_per_second": ...} to
{"case": "decode", "batch": 8, "prompt": 32, "tokens": 64} and
{"case": "prefill", "tokens": 512}, {"tokens": [[second, ...], ...]} to
{"case": "load", "requests": [{"at": second, "ids": [...], "tokens": 64}, ...]},
or {"error": ...}.
"""

import argparse
import importlib
import json
import os
import shutil
import sys
import traceback
from pathlib import Path

from check import relative_error
from engines import PEERS, SERVING
from engines.open_load import OpenLoad


def main():
    args = parse_args()
    if args.action == "prepare":
        prepare(args.name, args.work)
    else:
        serve(find(args.name), args.work, args.threads)


def parse_args():
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=["prepare", "serve"])
    parser.add_argument("name")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def find(name):
    return next(peer for peer in (*PEERS, *SERVING) if peer.name == name)


def module_of(peer):
    return importlib.import_module(f"engines.{peer.module}")


def prepare(name, work):
    checkpoint = work / "checkpoint"
    if name == "checkpoint":
        # Here, since no other task wants PyTorch.
        from checkpoint import write

        build_once(checkpoint, write)
        return
    peer = find(name)
    module = module_of(peer)
    build_once(
        work / peer.slug,
        lambda target: module.prepare(checkpoint, target, peer.precision),
    )


def build_once(target, build):
    """Builds beside and renames, so that what is there is always whole."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(target.name + ".unfinished")
    if unfinished.is_dir() and not unfinished.is_symlink():
        shutil.rmtree(unfinished)
    else:
        unfinished.unlink(missing_ok=True)
    build(unfinished)
    unfinished.rename(target)


def serve(peer, work, threads):
    answers = private_stdout()
    engine = module_of(peer).load(work / peer.slug, peer.precision, threads)
    error = relative_error(work / "checkpoint", engine)
    answer(answers, {"ready": True, "version": engine.version, "relative_error": error})
    for line in sys.stdin:
        try:
            reply = measure(engine, json.loads(line))
        except Exception as error:
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"}
        answer(answers, reply)


def private_stdout():
    """Keeps stdout for answers; what libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def answer(answers, reply):
    print(json.dumps(reply), file=answers, flush=True)


def measure(engine, command):
    match command:
        case {"case": "decode", "batch": batch, "prompt": prompt, "tokens": tokens}:
            seconds = engine.decode(batch, prompt, tokens)
            total = batch * tokens
        case {"case": "load", "requests": requests}:
            load = OpenLoad(requests)
            engine.serve(load)
            return {"tokens": load.times}
        case {"case": "prefill", "tokens": total}:
            seconds = engine.prefill(total)
        case _:
            raise ValueError(f"no such case: {command}")
    return {"seconds": seconds, "tokens_per_second": total / seconds}


if __name__ == "__main__":
    main()
