"""Write the generated parts of README and docs from benchmarks/results/: ``python benchmarks/report.py [--check]``.

A part stands between ``<!-- generated: NAME -->`` and ``<!-- /generated: NAME -->``; nobody types figures there.
The operators' plots (a PNG for each device, by matplotlib of the extra ``report``) stand beside the results.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import _ablations
import _costs
import _forecasts
import _headlines
import _results
import _streams

ROOT = _results.ROOT
RESULTS = _results.RESULTS
ENDS = ("source", "target_statistics", "adapted")  # the other rows are a method's own stages
TASKS = {"streets": "`streets`", "carla_camvid": "T1 `carla_camvid`", "day_dusk": "T3 `day_dusk`"}


def train() -> str:
    """The table of training results, a line a task, method and seed, and the machine that made them."""
    path = RESULTS / "train_cpu.json"
    if not path.exists():
        return "Not measured yet."
    records = json.loads(path.read_text())
    scores = {
        (r["task"], r["method"], r["seed"]): {row["name"]: 100 * row["miou"] for row in r["rows"]} for r in records
    }
    rows = []
    for record in records:
        task, method, seed = record["task"], record["method"], record["seed"]
        if method == "oracle":
            continue
        miou = scores[task, method, seed]
        oracle = scores.get((task, "oracle", seed), {}).get("oracle")
        closed = "" if oracle is None else f"{(miou['adapted'] - miou['source']) / (oracle - miou['source']):.0%}"
        stages = [f"{value:.1f}" for name, value in miou.items() if name not in ENDS]
        rows.append(
            [TASKS[task], f"`{method}`", str(seed)]
            + [f"{miou[name]:.1f}" if name in miou else "" for name in ("source", "target_statistics")]
            + [", ".join(stages), f"{miou['adapted']:.1f}", "" if oracle is None else f"{oracle:.1f}", closed]
            + [spent(record)]
        )
    machines = ", ".join(sorted({record["machine"] for record in records}))
    header = ["task", "method", "seed", "source-only", "target statistics", "stages", "adapted", "oracle"]
    return (
        f"{_results.table([*header, 'gap closed', 'time'], rows)}\n\n"
        f"Measured on {machines}{commits(records)}; commands and classes in `benchmarks/results/train_cpu.json`."
    )


def commits(records: Sequence[dict]) -> str:
    """Part of a sentence: at which commits records were measured, and how many do not say so."""
    known = sorted({_results.tree(record) for record in records if "commit" in record})
    unknown = sum("commit" not in record for record in records)
    found = f" at {', '.join(known)}" if known else ""
    return found + (f" ({unknown} of the {len(records)} runs are older than the noting of commits)" if unknown else "")


def spent(record: dict) -> str:
    """Minutes that a run took; its processor time instead where it had less than 80 % of a processor."""
    seconds, processor = record["seconds"], record.get("cpu_seconds")
    if seconds is None:
        return "–"
    if processor and processor < 0.8 * seconds:
        return f"{processor / 60:.0f} min of CPU"
    return f"{seconds / 60:.0f} min"


COMPILED = ("compile", "compile_usual", "compile_one_hot", "compile_bmm")
LIBRARIES = ("one_hot_matmul", "index_add", "torch_scatter", "class_matmul", "bmm")
HEADER = ("operator", "case", "direction", "kernel", "ms (20–80 %)", "of ceiling", "vs usual", "vs reference")
HEADER += ("vs compile", "vs best rewrite", "extra MiB", "error (fp64)", "tree")


def group(rows: Sequence[dict]) -> dict[tuple, dict[str, dict]]:
    """(operator, case, direction) -> {provider: row}, all of one run on one device."""
    found: dict[tuple, dict[str, dict]] = {}
    for row in rows:
        found.setdefault((row["operator"], row["case"], row["direction"]), {})[row["provider"]] = row
    return found


def ratio(ours: dict, others: dict[str, dict], names: Sequence[str], named: bool = False) -> str:
    """How many times longer the fastest of the named providers takes; a dash where none was measured."""
    measured = [others[name] for name in names if name in others]
    if not measured:
        return "–"
    best = min(measured, key=lambda row: row["ms"])
    return f"{number(best['ms'] / ours['ms'], 2)}x" + (f" ({best['provider']})" if named else "")


def number(x: float, digits: int = 3) -> str:
    """Significant digits, but never an exponent for a large number."""
    return f"{x:.0f}" if x >= 10 ** (digits - 1) else f"{x:.{digits}g}"


def share(row: dict) -> str:
    """The row's share of its ceiling; a dash where it exceeds 100 %, as in older rows (see NOTES.md)."""
    return f"{row['ceiling_share']:.0%}" if row["ceiling_share"] <= 1 else "–"


IN_A_ROW = 5  # position of a GPU's additional column; on a CPU both times are the clock's


def operator_header(is_gpu: bool) -> list[str]:
    return [*HEADER[:IN_A_ROW], *["ms in a row"] * is_gpu, *HEADER[IN_A_ROW:]]


def operator_row(ours: dict, others: dict[str, dict]) -> list[str]:
    extra = "–" if ours["extra_mib"] is None else number(ours["extra_mib"])
    return [
        f"`{ours['operator']}`",
        ours["case"],
        ours["direction"],
        ours["provider"],
        f"{number(ours['ms'])} ({number(ours['ms_20'])}–{number(ours['ms_80'])})",
        *["–" if ours["wall_ms"] is None else number(ours["wall_ms"])] * (ours["device_type"] == "cuda"),
        share(ours),
        ratio(ours, others, ["usual"]),
        ratio(ours, others, ["reference"]),
        ratio(ours, others, COMPILED),
        ratio(ours, others, LIBRARIES, named=True),
        extra,
        f"{ours['error_fp64']:.1e}",
        _results.tree(ours),
    ]


def devices(rows: Sequence[dict]) -> dict[tuple[str, int], list[dict]]:
    """(device, threads) -> its rows, in order of name."""
    names = sorted({(row["device"], row["threads"]) for row in rows})
    return {name: [row for row in rows if (row["device"], row["threads"]) == name] for name in names}


def operators() -> str:
    """A table for each device of the rows that passed the gate; a sentence for a kind of device that has none."""
    rows = _results.load(RESULTS)
    parts = []
    for (device, threads), device_rows in devices(rows).items():
        table_rows = [
            operator_row(others[name], others)
            for others in group(device_rows).values()
            for name in _results.OURS
            if name in others
        ]
        if not table_rows:
            continue
        is_gpu = device_rows[0]["device_type"] == "cuda"
        where = "" if is_gpu else f", {threads} pinned thread" if threads == 1 else f", {threads} threads"
        versions = ", ".join(sorted({f"{n} {v}" for row in device_rows for n, v in row["versions"].items()}))
        content = _results.table(operator_header(is_gpu), table_rows)
        parts.append(f"**{device}{where}** ({versions})\n\n{content}")
        parts += uncommitted(device_rows)
        if (picture := plot_path(device, threads)).exists():
            parts.append(_results.picture(device, picture))
    for kind, what in (("cpu", "CPU"), ("cuda", "GPU")):
        if not any(row["device_type"] == kind and row["provider"] in _results.OURS for row in rows):
            parts.append(f"**{what}**: not measured yet.")
    parts.append(
        "*In a row*: one of several calls in a row by the clock, the host's work included. *Of ceiling*: the least "
        "time that the bytes and operations of the case need at this machine's own measured bandwidths and "
        "multiply-add peak, over the time taken; a dash in older rows, whose ceiling was a matrix library's rate, "
        "where ours is the faster. *vs*: the other's time over ours, in the same run; above 1 we "
        "are faster. *compile*: the fastest of torch.compile of the reference and of the other forms. *Extra*: peak "
        "memory beyond inputs, results and the gradient. *Error*: largest error against float64 over the largest "
        "magnitude. *Tree*: the commit that was measured."
    )
    return "\n\n".join(parts)


def uncommitted(rows: Sequence[dict]) -> list[str]:
    """A note on the rows that were measured in a tree with changes; none where every row's sources are committed."""
    changed = sum(_results.is_uncommitted(row["commit"]) for row in rows)
    if not changed:
        return []
    return [
        f"**{changed} of the {len(rows)} rows behind this table were measured before the gate refused a tree with "
        f'changes that were not committed.** They are marked "{_results.CHANGED}" in the last column: no commit holds '
        "exactly the code that was timed. Today such rows are refused."
    ]


def plot_path(device: str, threads: int) -> Path:
    import roofline

    return RESULTS / f"operators_{roofline.slug(device)}{f'_{threads}_threads' if threads != 1 else ''}.png"


def plots() -> list[Path]:
    """One PNG a measured device: milliseconds of every provider, a panel for each operator, case and direction."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    written = []
    for (device, threads), rows in devices(_results.load(RESULTS)).items():
        panels = [(key, found) for key, found in group(rows).items() if set(found) & set(_results.OURS)]
        if not panels:
            continue
        across = min(3, len(panels))
        down = -(-len(panels) // across)
        figure, axes = pyplot.subplots(down, across, figsize=(4.6 * across, 2.4 * down), squeeze=False)
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
        for axis, ((operator, case, direction), found) in zip(axes.flat, panels, strict=False):
            order = sorted(found.values(), key=lambda row: -row["ms"])
            colours = ["tab:blue" if row["provider"] in _results.OURS else "tab:gray" for row in order]
            spread = [[r["ms"] - r["ms_20"] for r in order], [r["ms_80"] - r["ms"] for r in order]]
            axis.barh([row["provider"] for row in order], [row["ms"] for row in order], xerr=spread, color=colours)
            axis.axvline(order[0]["floor_ms"], color="tab:red", linewidth=1)
            axis.set_xscale("log")
            axis.set_title(f"{operator} {direction}\n{case}", fontsize=8)
            axis.tick_params(labelsize=7)
            axis.set_xlabel("ms (red: this machine's floor)", fontsize=7)
        figure.suptitle(f"{device}, threads: {threads}" if rows[0]["device_type"] == "cpu" else device, fontsize=9)
        figure.tight_layout()
        written.append(plot_path(device, threads))
        figure.savefig(written[-1], dpi=110, metadata={"Software": None})
        pyplot.close(figure)
    return written


def lines(rows: Sequence[dict], probe) -> list[str]:
    """A plain table of a run for the terminal, fastest first, after the ceilings it is measured against."""
    found = [
        f"{probe.device}, {probe.threads} threads: read {probe.read_gb_s:.1f}, copy {probe.copy_gb_s:.1f} and write "
        f"{probe.write_gb_s:.1f} GB/s; multiply-adds {probe.fma_gflop_s:.0f}, matrix products in fp32 "
        f"{probe.fp32_gflop_s:.0f} and in bf16 {probe.bf16_gflop_s:.0f} GFLOP/s"
    ]
    for (operator, case, direction), others in group(rows).items():
        found.append(f"{operator}, {case}, {direction}:")
        for row in sorted(others.values(), key=lambda row: row["ms"]):
            extra = "      ?" if row["extra_mib"] is None else f"{row['extra_mib']:7.1f}"
            found.append(
                f"  {row['provider']:<16} {row['ms']:10.3f} ms ({row['ms_20']:.3f} to {row['ms_80']:.3f})  "
                f"{row['wall_ms']:.3f} in a row  {row['ceiling_share']:6.1%} of {row['bound']}  "
                f"{extra} MiB extra  error {row['error_fp64']:.1e}"
                + ("" if row["deterministic"] else "  not deterministic")
                + ("" if row["launches"] is None else f"  {row['launches']} launches")
            )
    return found


PARTS = {
    "headlines": _headlines.part,
    "train": train,
    "costs": _costs.part,
    "ablations": _ablations.part,
    "memory": _forecasts.part,
    "step_memory": _forecasts.steps,
    "step_share": _forecasts.shares,
    "operators": operators,
    "pseudo_labels": _streams.part,
}


def pages() -> list[Path]:
    """README and every page of docs."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def render(text: str, page: str) -> str:
    """A page's text with every generated part written anew; ValueError, naming the page, for an unknown part."""
    for name in re.findall(r"<!-- generated: (\w+) -->", text):
        if name not in PARTS:
            raise ValueError(f"{page} has a generated part '{name}' that benchmarks/report.py cannot make")
        begin, end = f"<!-- generated: {name} -->", f"<!-- /generated: {name} -->"
        head, rest = text.split(begin, 1)
        if end not in rest:
            raise ValueError(f"{page}: the generated part '{name}' does not end")
        text = f"{head}{begin}\n{PARTS[name]()}\n{end}{rest.split(end, 1)[1]}"
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a page is out of date")
    options = parser.parse_args()
    if not options.check and importlib.util.find_spec("matplotlib"):
        plots()
        _streams.plot()
    elif not options.check:
        print('no plots without matplotlib: pip install -e ".[report]"', file=sys.stderr)
    changed = {}
    for path in pages():
        old = path.read_text()
        if (new := render(old, path.name)) != old:
            changed[path] = new
    if options.check:
        for path in changed:
            print(f"{path.relative_to(ROOT)} is out of date: run python benchmarks/report.py", file=sys.stderr)
        return int(bool(changed))
    for path, text in changed.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
