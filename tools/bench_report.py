#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Holds what benchmark programs measured against benchmarks/bars.json, for tools/bench.sh.

    bench_report.py BARS RESULTS [--smoke] [--json FILE] [MODULE...]

RESULTS is a folder of Google Benchmark's JSON files. A row of BARS is measured by the benchmarks named ID/ours and
ID/peer, and every other ID/NAME is a peer shown beside them. What counts is the median over the repetitions: of the
counter "value" where a benchmark has one, else of the time of an iteration in nanoseconds, which is the processor's
unless the benchmark's name says real_time or manual_time. Medians of its other counters are shown beside it; those whose
name ends in _ns are times.

A row whose bar is null is only shown.

Exits 1 when a row is SHORT. A smoke run holds nothing against its bar, and fails where a benchmark did.
"""

import argparse
import json
import pathlib
import statistics
import sys

NANOSECONDS = {"ns": 1, "us": 1e3, "ms": 1e6, "s": 1e9}

# What Google Benchmark itself tells in numbers of each repetition; other numbers are counters.
ITS_OWN = {"family_index", "per_family_instance_index", "repetitions", "repetition_index", "threads", "iterations",
           "real_time", "cpu_time"}


def counters_of(run):
    return {
        name: value for name, value in run.items() if isinstance(value, (int, float)) and name not in ITS_OWN | {"value"}
    }


def read_measurements(folder):
    """Returns {row: {variant: [value of each repetition]}}, {row: {variant: {counter: [value of each repetition]}}} and
    {row: reason of the first that could not run}."""
    values, counters, reasons = {}, {}, {}
    for file in sorted(pathlib.Path(folder).glob("*.json")):
        for run in json.loads(file.read_text())["benchmarks"]:
            row, variant, *properties = run["name"].split("/")
            if run.get("error_occurred") or "error_message" in run or "skip_message" in run:
                reason = run.get("error_message") or run.get("skip_message")
                reasons.setdefault(row, reason)
            elif run["run_type"] == "iteration":
                time = run["real_time" if {"real_time", "manual_time"} & set(properties) else "cpu_time"]
                value = run.get("value", time * NANOSECONDS[run["time_unit"]])
                values.setdefault(row, {}).setdefault(variant, []).append(value)
                for name, counter in counters_of(run).items():
                    of_variant = counters.setdefault(row, {}).setdefault(variant, {})
                    of_variant.setdefault(name, []).append(counter)
    return values, counters, reasons


def holds(kind, measured, bar):
    return measured <= bar if kind.startswith("max") else measured >= bar


def judge(bar, variants, counters, reason, smoke):
    """Makes the row of the report that stands for one row of the bars."""
    medians = {name: statistics.median(values) for name, values in variants.items()}
    beside = {
        name: {counter: statistics.median(values) for counter, values in of_variant.items()}
        for name, of_variant in counters.items()
    }
    ours, peer = medians.pop("ours", None), medians.pop("peer", None)
    by_ratio = bar["kind"].endswith("ratio")
    ratio = ours / peer if by_ratio and ours is not None and peer else None
    measured = ratio if by_ratio else ours
    if reason:
        status = f"SKIP({reason.removeprefix('SKIP: ')})" if reason.startswith("SKIP: ") else "SHORT"
    elif measured is None:
        status = "MISSING"
    elif bar["bar"] is None:
        status = "shown"
    elif smoke:
        status = "SKIP(a smoke run measures nothing)"
    else:
        status = "ok" if holds(bar["kind"], measured, bar["bar"]) else "SHORT"
    row = {key: bar[key] for key in ("id", "module", "peer_name", "unit", "kind", "bar")}
    row |= {"ours": ours, "peer": peer, "ratio": ratio, "status": status, "counters": beside.get("ours", {})}
    if reason:
        row["reason"] = reason
    row["others"] = [
        {"name": name, "value": value, "ratio": value / peer if by_ratio and peer else None,
         "counters": beside.get(name, {})}
        for name, value in medians.items()
    ]
    return row


def in_words(value, unit):
    if value is None:
        return "-"
    if unit == "ns":
        for name, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
            if value >= size:
                return f"{value / size:.4g} {name}"
    return f"{value:.4g} {unit}"


def ratio_in_words(ratio):
    return "-" if ratio is None else f"{ratio:.3f}"


def show_counters(counters):
    if counters:
        words = (
            f"{name.removesuffix('_ns')} {in_words(value, 'ns') if name.endswith('_ns') else f'{value:.4g}'}"
            for name, value in counters.items()
        )
        print(f"        {', '.join(words).replace('_', ' ')}")


def show(row):
    sign = "<=" if row["kind"].startswith("max") else ">="
    if row["bar"] is None:
        bar = ""
    else:
        bar = f"{sign} {row['bar']}" if row["kind"].endswith("ratio") else f"{sign} {in_words(row['bar'], row['unit'])}"
    columns = (in_words(row["ours"], row["unit"]), in_words(row["peer"], row["unit"]), ratio_in_words(row["ratio"]), bar)
    print(f"{row['id']:<24} {columns[0]:>12} {columns[1]:>12} {columns[2]:>8} {columns[3]:>12}  {row['status']}")
    if row["status"] == "SHORT" and "reason" in row:
        print(f"    failed: {row['reason']}")
    show_counters(row["counters"])
    for other in row["others"]:
        value, ratio = in_words(other["value"], row["unit"]), ratio_in_words(other["ratio"])
        print(f"    {other['name']:<20} {'':>12} {value:>12} {ratio:>8} {'':>12}  shown")
        show_counters(other["counters"])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("bars")
    parser.add_argument("results")
    parser.add_argument("modules", nargs="*")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--json")
    arguments = parser.parse_intermixed_args()
    bars = json.loads(pathlib.Path(arguments.bars).read_text())
    values, counters, reasons = read_measurements(arguments.results)
    unknown = (values.keys() | reasons.keys()) - {bar["id"] for bar in bars}
    if unknown:
        sys.exit(f"bench: {arguments.bars} has no row {', '.join(sorted(unknown))}")
    rows = [
        judge(bar, values.get(bar["id"], {}), counters.get(bar["id"], {}), reasons.get(bar["id"]), arguments.smoke)
        for bar in bars
        if not arguments.modules or {bar["module"], bar["id"].split(".")[0]} & set(arguments.modules)
    ]
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(rows, indent=2) + "\n")
    print(f"{'row':<24} {'ours':>12} {'peer':>12} {'ratio':>8} {'bar':>12}")
    for row in rows:
        show(row)
    counts = {}
    for row in rows:
        status = row["status"].split("(")[0]
        counts[status] = counts.get(status, 0) + 1
    print("bench: " + ", ".join(f"{count} {status}" for status, count in counts.items()))
    return 1 if "SHORT" in counts else 0


if __name__ == "__main__":
    sys.exit(main())
