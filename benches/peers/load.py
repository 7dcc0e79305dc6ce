#!/usr/bin/env python3
"""Many requests at a time: gpt2 through HTTP and its peers in process, in turn.

The same random GPT-2 124M and the same requests, which come at random times
and more often than anyone can answer them; see README.md.
"""

import argparse
import json
import math
from pathlib import Path
from statistics import median

import client
import machine
import report
import run
from engines import OURS, SERVING

COLUMNS = ("tokens/s", "first token p50", "p99", "between tokens p50", "p99 ")
WIDTHS = tuple(dict.fromkeys(peer.width for peer in SERVING))
# Random weights repeat themselves, and prompts come again every round.
WITHOUT_REUSE = ("--speculation", "off", "--prefix-reuse", "off")
# Each engine sees a few requests before it counts.
WARM_UP_REQUESTS = 4


def main():
    args = parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    client.prepare("checkpoint", args.work)
    results = []
    for width in args.widths:
        results.append(LoadedWidth(width, args).measure())
        print(table(results[-1]), end="\n\n", flush=True)
        if args.json:
            settings = {"arguments": vars(args), "processor": machine.processor()}
            whole = json.dumps(settings | {"widths": results}, indent=1, default=str)
            args.json.write_text(whole + "\n")


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    engines = list(dict.fromkeys([OURS, *(peer.engine for peer in SERVING)]))
    add("--only", type=run.some_of(engines), default=engines, help="engines, by comma")
    add("--widths", type=run.some_of(WIDTHS), default=["f32"], help="by comma")
    add("--rounds", type=int, default=3, help="turns of each engine")
    add("--requests", type=int, default=48, help="of a turn")
    add("--rate", type=float, default=16, help="requests a second")
    add("--seed", type=int, default=0, help="which requests, and when")
    add("--threads", type=int, default=2, help="threads of each engine")
    add("--work", type=Path, default=run.ROOT / "target/peers", help="models and logs")
    add("--json", type=Path, help="a file for every reading")
    add("serve", nargs="*", help="after --: further arguments of `gpt2 serve`")
    args = parser.parse_args()
    args.cases = []
    if OURS not in args.only:
        parser.error(f"--only without {OURS}, which says what the requests are")
    return args


class LoadedWidth(run.Width):
    """All engines of one width, given the same requests in turn."""

    peers = SERVING

    def start_ours(self):
        args = self.args
        asked = ["--requests", args.requests, "--rate", args.rate, "--seed", args.seed]
        asked += ["--", *WITHOUT_REUSE, *args.serve]
        arguments = [str(argument) for argument in asked]
        engine = client.start_load(
            self.result["width"], args.work, args.threads, arguments
        )
        self.requests = engine.ready.pop("requests")
        return engine

    def warm_up(self):
        for name in list(self.running):
            if not report.is_ours(name):  # the generator does it by itself
                self.ask(name, self.order(WARM_UP_REQUESTS), "tokens")

    def order(self, count):
        return {"case": "load", "requests": self.requests[:count]}

    def round(self, turn):
        names = list(self.running)
        first = turn % max(1, len(names))
        for name in names[first:] + names[:first]:
            self.take(name, turn)

    def take(self, name, turn):
        busy = machine.busy_share(run.SETTLE_SECONDS)
        reply = self.ask(name, self.order(len(self.requests)), "tokens")
        if reply is None:
            return
        for error in reply.get("errors", []):
            self.fail(name, error)
        figures = {"round": turn, "busy_before": busy} | self.figures(reply.pop("tokens"))
        run.say(f"round {turn + 1}, {name}: {figures['tokens/s']:.1f} tokens/s")
        cost = {k: reply[k] for k in ("generator_seconds", "server_seconds") if k in reply}
        rates = self.result["engines"][name]["rates"]
        rates.setdefault("load", []).append(figures | cost)

    def figures(self, times):
        """Of the times at which each request's tokens came."""
        first = [t[0] - r["at"] for t, r in zip(times, self.requests) if t]
        between = [b - a for t in times for a, b in zip(t, t[1:])]
        total = sum(map(len, times)) / max(t[-1] for t in times if t)
        shares = [quantile(w, share) for w in (first, between) for share in (0.5, 0.99)]
        return dict(zip(COLUMNS, [total, *shares]))


def quantile(values, share):
    """By nearest rank."""
    return sorted(values)[max(1, math.ceil(share * len(values))) - 1]


def table(result):
    rows = [["engine", *(column.strip() for column in COLUMNS)]]
    readings = {n: e["rates"].get("load", []) for n, e in result["engines"].items()}
    readings = {name: taken for name, taken in readings.items() if taken}
    for name, taken in readings.items():
        units = [report.number, *[seconds] * 4]
        cells = zip(COLUMNS, units)
        rows.append([name, *(report.spread([r[c] for r in taken], u) for c, u in cells)])
    lines = [f"## {result['width']}, many requests", "", *report.aligned(rows), ""]
    ours = next(name for name in readings if report.is_ours(name))
    for name, taken in readings.items():
        if name != ours:
            pairs = zip(readings[ours], taken)
            ratios = [a["tokens/s"] / b["tokens/s"] for a, b in pairs]
            lines.append(f"ours / {name}: {report.spread(ratios, lambda x: f'{x:.2f}')}")
    shares = [r["generator_seconds"] / r["server_seconds"] for r in readings[ours]]
    lines.append(f"the generator took {median(shares):.1%} of our server's processor time")
    for name, reasons in result["failures"].items():
        lines += [f"{name} failed: {why}" for why in reasons]
    return "\n".join(lines)


def seconds(x):
    return f"{x:.2f} s" if x >= 1 else f"{1e3 * x:.0f} ms"


if __name__ == "__main__":
    main()
