"""The generated part and the plot on pseudo labels of a whole data set, from results/pseudo_labels_cpu.json."""

from __future__ import annotations

import _results

RECORDS = _results.RESULTS / "pseudo_labels_cpu.json"
PICTURE = _results.RESULTS / "pseudo_labels_cpu.png"
FORMS = {
    "stream": "`confidence_histogram`, `select_balanced`",
    "append_and_sort": "append and sort",
    "maps_on_disk": "probability maps on disk",
}
QUANTITIES = {"seconds": "seconds", "peak_mib": "MiB of memory", "disk_mib": "MiB on disk"}


def records() -> dict[str, list[dict]]:
    """The records of each form by number of images; empty if nothing was measured."""
    rows = _results.read(RECORDS)
    found = {form: sorted((r for r in rows if r["form"] == form), key=lambda r: r["images"]) for form in FORMS}
    return found if all(found.values()) else {}


def part() -> str:
    """A table: each form at the largest number of images it was run on, its costs, and its time over ours."""
    found = records()
    if not found:
        return "Not measured yet."
    ours = found["stream"]
    rows = []
    for form, name in FORMS.items():
        last = found[form][-1]
        peer = next(row for row in ours if row["images"] == last["images"])
        per_image = last["seconds"] / last["images"]
        ratio = last["seconds"] / peer["seconds"]
        cells = [name, str(last["images"]), f"{per_image:.3f}", f"{last['peak_mib']:.0f}", f"{last['disk_mib']:.0f}"]
        rows.append([*cells, f"{ratio:.0f}x"])
    machine, threads = ours[-1]["machine"], ours[-1]["threads"]
    note = (
        f"Measured on {machine}, threads: {threads}, by `benchmarks/train/pseudo_label_stream.py`; memory beyond the "
        "process with its imports, disk beside the stored scores (1.2 MiB an image) and the labels."
    )
    picture = f"\n\n{_results.picture('pseudo labels', PICTURE)}" if PICTURE.exists() else ""
    header = ["form", "images", "seconds an image", "MiB of memory", "MiB on disk", "time vs ours"]
    return f"{_results.table(header, rows)}\n\n{note}{picture}"


def plot() -> None:
    """Time, memory and disk of each form over the number of images."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = records()
    if not found:
        return
    figure, axes = pyplot.subplots(1, len(QUANTITIES), figsize=(4 * len(QUANTITIES), 3))
    for axis, (quantity, label) in zip(axes, QUANTITIES.items(), strict=True):
        for form, rows in found.items():
            axis.plot(
                [r["images"] for r in rows], [r[quantity] for r in rows], "o-", label=FORMS[form].replace("`", "")
            )
        axis.set_xscale("log")
        axis.set_yscale("symlog" if quantity == "disk_mib" else "log")
        if quantity == "disk_mib":
            axis.set_ylim(-0.3, 10_000)
        axis.set_xlabel("images of 1024 x 2048", fontsize=8)
        axis.set_title(label, fontsize=9)
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
