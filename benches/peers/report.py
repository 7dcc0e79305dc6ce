"""From readings to a table: medians, ranges, and ratios taken round by round."""

from statistics import median

from engines import OURS

# What one prompt token costs in GPT-2 124M's blocks: 2 (4·768² + 2·768·3072) · 12.
OPERATIONS_PER_PROMPT_TOKEN = 2 * 12 * (4 * 768 * 768 + 2 * 768 * 3072)
# A turn that begins with others using more of the processors than this is
# doubtful: engines whose threads wait by spinning then lose most of their speed.
BUSY_SHARE = 0.2


def width_table(result, cases):
    """One width's table and the lines below it."""
    rows = [["engine", *cases, "peak MiB"]]
    for name, engine in result["engines"].items():
        rates = engine["rates"]
        cells = [spread(rates.get(case, []), number) for case in cases]
        memory = engine["peak_memory_bytes"]
        rows.append([name, *cells, f"{memory >> 20}" if memory else "-"])
    rows += ratio_rows(result["engines"], cases)
    lines = [f"## {result['width']}", "", *aligned(rows), ""]
    lines += machine_lines(result["machine"]) + busy_lines(result["engines"])
    for name, reasons in result["failures"].items():
        lines += [f"{name} failed: {why}" for why in reasons]
    return "\n".join(lines)


def ratio_rows(engines, cases):
    ours = next((e for n, e in engines.items() if is_ours(n)), None)
    if ours is None:
        return []
    against_best, against_llama = ["ours / best peer"], ["ours / llama.cpp"]
    for case in cases:
        peers = {n: e["rates"].get(case) for n, e in engines.items() if not is_ours(n)}
        against_best.append(against(ours["rates"].get(case), peers, named=True))
        llama = {n: r for n, r in peers.items() if n.startswith("llama.cpp")}
        against_llama.append(against(ours["rates"].get(case), llama, named=False))
    return [[*against_best, ""], [*against_llama, ""]]


def against(ours, peers, named):
    """The ratio to the fastest of some peers."""
    peers = {name: rates for name, rates in peers.items() if rates}
    if not ours or not peers:
        return "-"
    best = max(peers, key=lambda name: median(by_round(peers[name]).values()))
    text = spread(ratios(ours, peers[best]), lambda x: f"{x:.2f}")
    return f"{text} {best}" if named else text


def ratios(ours, peer):
    """Per round, as the two of one round saw the most alike machine."""
    ours, peer = by_round(ours), by_round(peer)
    pairs = [(ours[r], peer[r]) for r in ours if r in peer]
    return [a / b for a, b in pairs]


def by_round(readings):
    return {reading["round"]: reading["tokens_per_second"] for reading in readings}


def machine_lines(machine):
    """What the machine gave while ours ran, and how much of it ours used."""
    lines = []
    if machine["bandwidth"]:
        given = spread([m["bytes_per_second"] / 1e9 for m in machine["bandwidth"]], number)
        share = spread([m["share"] for m in machine["bandwidth"]], percent)
        lines.append(f"ours, decode b1: {share} of the read bandwidth, {given} GB/s")
    if machine["peak"]:
        given = spread([m["operations_per_second"] / 1e9 for m in machine["peak"]], number)
        share = spread([m["share"] for m in machine["peak"]], percent)
        lines.append(f"ours, prefill: {share} of its multiply-add peak, {given} GOP/s")
    return lines


def busy_lines(engines):
    cases = [case for engine in engines.values() for case in engine["rates"].values()]
    shares = [reading["busy_before"] for case in cases for reading in case]
    busy = sum(share is not None and share > BUSY_SHARE for share in shares)
    if not busy:
        return []
    return [f"others were using the machine before {busy} of {len(shares)} turns"]


def is_ours(name):
    return name.split()[0] == OURS


def spread(readings, show):
    """`median [least–most]`, of numbers or of readings; '-' for none."""
    values = [r["tokens_per_second"] if isinstance(r, dict) else r for r in readings]
    if not values:
        return "-"
    middle = show(median(values))
    if len(values) == 1:
        return middle
    return f"{middle} [{show(min(values))}–{show(max(values))}]"


def number(x):
    return f"{x:.1f}" if x < 100 else f"{x:.0f}"


def percent(x):
    return f"{100 * x:.0f}%"


def aligned(rows):
    """A Markdown table that reads as well unrendered."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    rows = [rows[0], ["-" * width for width in widths], *rows[1:]]
    return [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths)) + " |"
        for row in rows
    ]
