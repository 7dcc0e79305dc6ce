#!/usr/bin/env python3
"""Measures gpt2 and its peers in turn on one random GPT-2 124M; see README.md."""

import argparse
import json
import sys
from pathlib import Path

import client
import machine
import report
from client import EngineFailure
from engines import OURS, PEERS, WIDTHS

ROOT = client.HERE.parent.parent
CASES = {
    "decode b1": {"case": "decode", "batch": 1, "prompt": 32, "tokens": 128},
    "decode b8": {"case": "decode", "batch": 8, "prompt": 32, "tokens": 64},
    "decode b32": {"case": "decode", "batch": 32, "prompt": 32, "tokens": 64},
    "prefill 512": {"case": "prefill", "tokens": 512},
}
BESIDE_BANDWIDTH, BESIDE_PEAK = "decode b1", "prefill 512"
WARM_UP_TOKENS = 4
# Between turns, so that the last engine's spinning threads are asleep; what
# the processor does then is others' work.
SETTLE_SECONDS = 0.2
# More is another model than the one given: 4 bits come to a quarter.
MOST_ERROR = 0.4


def main():
    args = parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    say("making the checkpoint")
    try:
        client.prepare("checkpoint", args.work)
    except EngineFailure as failure:
        sys.exit(f"no checkpoint: {failure}")
    results = []
    for width in args.widths:
        results.append(Width(width, args).measure())
        print(report.width_table(results[-1], args.cases), end="\n\n", flush=True)
        # After each width, so that an interrupted run keeps what it has.
        if args.json:
            settings = {"threads": args.threads, "rounds": args.rounds}
            whole = settings | {"processor": machine.processor(), "widths": results}
            args.json.write_text(json.dumps(whole, indent=1) + "\n")


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    engines = list(dict.fromkeys([OURS, *(peer.engine for peer in PEERS)]))
    slugs = {name.replace(" ", "-"): name for name in CASES}
    add("--only", type=some_of(engines), default=engines, help="engines, by comma")
    add("--widths", type=some_of(WIDTHS), default=list(WIDTHS), help="by comma")
    add("--cases", type=some_of(slugs), default=list(slugs), help="by comma")
    add("--rounds", type=int, default=5, help="turns of each engine")
    add("--threads", type=int, default=2, help="threads of each engine")
    add("--work", type=Path, default=ROOT / "target/peers", help="models and logs")
    add("--binary", type=Path, default=ROOT / "target/release/gpt2", help="ours")
    add("--json", type=Path, help="a file for every reading")
    args = parser.parse_args()
    args.cases = [slugs[slug] for slug in args.cases]
    return args


def some_of(choices):
    """A parser of names separated by commas, kept in the order of `choices`."""

    def parse(text):
        names = text.split(",")
        unknown = [name for name in names if name not in choices]
        if unknown:
            known = ", ".join(choices)
            raise argparse.ArgumentTypeError(f"no {unknown[0]!r}; there are {known}")
        return [name for name in choices if name in names]

    return parse


class Width:
    """All engines of one width: loaded together, measured in turn."""

    peers = PEERS

    def __init__(self, width, args):
        self.args = args
        self.running = {}
        self.result = {
            "width": width,
            "engines": {},
            "failures": {},
            "machine": {"bandwidth": [], "peak": []},
        }

    def measure(self):
        try:
            self.start_all()
            self.warm_up()
            for turn in range(self.args.rounds):
                self.round(turn)
            for name, engine in self.running.items():
                self.result["engines"][name]["peak_memory_bytes"] = engine.peak_memory()
        finally:
            for engine in self.running.values():
                engine.close()
        return self.result

    def start_all(self):
        width = self.result["width"]
        if OURS in self.args.only:
            self.start(f"{OURS} {width}", self.start_ours)
        for peer in self.peers:
            if peer.width == width and peer.engine in self.args.only:
                self.start(peer.name, lambda: self.start_peer(peer))

    def start_ours(self):
        args, width = self.args, self.result["width"]
        engine = client.start_ours(args.binary, width, args.work, args.threads)
        if "packed_bytes" not in engine.ready:
            engine.close()
            raise EngineFailure(f"no packed_bytes in {engine.ready}")
        return engine

    def start_peer(self, peer):
        client.prepare(peer.name, self.args.work)
        engine = client.start_peer(peer, self.args.work, self.args.threads)
        error = engine.ready["relative_error"]
        if not error < MOST_ERROR:
            engine.close()
            raise EngineFailure(f"its logits are off by {error:.0%}")
        return engine

    def start(self, name, make):
        say(f"{name}: starting")
        try:
            engine = self.running[name] = make()
        except EngineFailure as failure:
            self.fail(name, failure)
            return
        self.result["engines"][name] = {
            "ready": engine.ready,
            "rates": {case: [] for case in self.args.cases},
            "peak_memory_bytes": None,
        }

    def warm_up(self):
        for case in self.args.cases:
            command = CASES[case]
            if command["case"] == "decode":
                command = command | {"tokens": WARM_UP_TOKENS}
            for name in list(self.running):
                self.ask(name, command)

    def round(self, turn):
        """Each case by each engine, so that what is compared ran closest in time."""
        for case in self.args.cases:
            names = list(self.running)
            first = turn % max(1, len(names))
            # Another engine starts each round: none always follows the same one.
            for name in names[first:] + names[:first]:
                self.take(name, case, turn)

    def take(self, name, case, turn):
        busy = machine.busy_share(SETTLE_SECONDS)
        if report.is_ours(name):
            reading = self.take_ours(name, case, turn)
        else:
            reading = self.ask(name, CASES[case])
        if reading is None:
            return
        rate = reading["tokens_per_second"]
        say(f"round {turn + 1}, {case}, {name}: {rate:.1f} tokens/s")
        rates = self.result["engines"][name]["rates"][case]
        rates.append({"round": turn, "busy_before": busy} | reading)

    def take_ours(self, name, case, turn):
        """Ours, with what the machine gives just before and after."""
        if case == BESIDE_BANDWIDTH:
            limit, unit = "bandwidth", "bytes_per_second"
        elif case == BESIDE_PEAK:
            limit, unit = "peak", "operations_per_second"
        else:
            return self.ask(name, CASES[case])
        before = self.ask(name, {"case": limit}, unit)
        reading = self.ask(name, CASES[case])
        after = self.ask(name, {"case": limit}, unit)
        if before and reading and after:
            given = (before[unit] + after[unit]) / 2
            used = reading["tokens_per_second"] * self.cost(name, limit)
            record = {"round": turn, unit: given, "share": used / given}
            self.result["machine"][limit].append(record)
        return reading

    def cost(self, name, limit):
        """What a token of ours takes: bytes of weights, or operations."""
        if limit == "peak":
            return report.OPERATIONS_PER_PROMPT_TOKEN
        return self.running[name].ready["packed_bytes"]

    def ask(self, name, command, unit="tokens_per_second"):
        """The reply; None from an engine that failed, which has no more turns."""
        if name not in self.running:
            return None
        try:
            reply = self.running[name].ask(command)
        except EngineFailure as failure:
            self.running.pop(name).close()
            self.fail(name, failure)
            return None
        if unit not in reply:
            # Another case may still work.
            self.fail(name, f"{command}: {reply.get('error', reply)}")
            return None
        return reply

    def fail(self, name, why):
        failures = self.result["failures"].setdefault(name, [])
        if str(why) not in failures:
            failures.append(str(why))
            say(f"{name} failed: {why}")


def say(text):
    """Progress, apart from the table."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
