"""Class-balanced pseudo labels (CBST's rule) of a target set from stored low-resolution scores, in three forms.

    python benchmarks/train/pseudo_label_stream.py [--output benchmarks/results/pseudo_labels_cpu.json] [--threads 1]

Scores are fp16 logits (19, 128, 256) for each image, 1.2 MiB, made from a seed; labels are uint8 (1024, 2048), written
as one raw file for each image in every form.  All forms keep the share PORTION of each class's most confident pixels.

stream           ours: a histogram of confidences over all images, then the labels, each straight from the scores
append_and_sort  the usual form: the upsampled softmax of each image, confidences appended to a list for each class and
                 sorted at the end; the softmax is computed again for the labels
maps_on_disk     the usual form of CBST and MLSL: every full-resolution probability map is saved and read back

Each form and number of images runs in a process of its own.  Peak memory is that beyond the process with its imports.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import records
import torch
from run import machine
from torch import Tensor
from torch.nn import functional as F

from fastuda.metrics.confidence import ConfidenceHistogram
from fastuda.ops import select_balanced

CLASSES, SCORES, SIZE, PORTION = 19, (128, 256), (1024, 2048), 0.2
COUNTS = {"stream": (2, 4, 8, 16, 50, 200), "append_and_sort": (2, 4, 8, 16), "maps_on_disk": (2, 4, 8, 16)}
MIB = 2**20


def make_scores(folder: Path, images: int) -> None:
    """Smooth logits with large and small regions, different for each image."""
    for number in range(images):
        generator = torch.Generator().manual_seed(number)
        coarse = torch.randn(1, CLASSES, 8, 16, generator=generator) * 3
        fine = torch.randn(1, CLASSES, *SCORES, generator=generator) * 0.5
        logits = F.interpolate(coarse, size=SCORES, mode="bilinear", align_corners=True) + fine
        np.save(folder / f"{number}.npy", logits[0].half().numpy())


def scores(folder: Path, images: int):
    for number in range(images):
        yield number, torch.from_numpy(np.load(folder / f"{number}.npy")).unsqueeze(0)


def save(out: Path, number: int, label: Tensor) -> None:
    label.numpy().tofile(out / f"{number}.label")


def stream(folder: Path, images: int, out: Path) -> int:
    histogram = ConfidenceHistogram(CLASSES)
    for _, logits in scores(folder, images):
        histogram.update(logits, size=SIZE)
    thresholds = histogram.thresholds(rule="portion", portion=PORTION)
    for number, logits in scores(folder, images):
        save(out, number, select_balanced(logits, thresholds, size=SIZE)[0])
    return 0


def probabilities(logits: Tensor) -> Tensor:
    return F.interpolate(logits.float(), size=SIZE, mode="bilinear", align_corners=True).softmax(1)[0]


def balanced(probability: Tensor, thresholds: Tensor) -> Tensor:
    ratio, label = (probability / thresholds.view(-1, 1, 1)).max(0)
    return label.where(ratio >= 1, 255).to(torch.uint8)


def portion_thresholds(confidences: list[list[np.ndarray]]) -> Tensor:
    thresholds = torch.ones(CLASSES)
    for k, parts in enumerate(confidences):
        values = np.sort(np.concatenate(parts)) if parts else np.empty(0)
        if len(values):
            thresholds[k] = float(values[-max(1, int(PORTION * len(values)))])
    return thresholds


def append(confidences: list[list[np.ndarray]], probability: Tensor) -> None:
    confidence, label = (x.flatten().numpy() for x in probability.max(0))
    for k in range(CLASSES):
        if (class_confidences := confidence[label == k]).size:
            confidences[k].append(class_confidences)


def append_and_sort(folder: Path, images: int, out: Path) -> int:
    confidences: list[list[np.ndarray]] = [[] for _ in range(CLASSES)]
    for _, logits in scores(folder, images):
        append(confidences, probabilities(logits))
    thresholds = portion_thresholds(confidences)
    for number, logits in scores(folder, images):
        save(out, number, balanced(probabilities(logits), thresholds))
    return 0


def maps_on_disk(folder: Path, images: int, out: Path) -> int:
    confidences: list[list[np.ndarray]] = [[] for _ in range(CLASSES)]
    for number, logits in scores(folder, images):
        probability = probabilities(logits)
        np.save(out / f"{number}.npy", probability.numpy())
        append(confidences, probability)
    thresholds = portion_thresholds(confidences)
    for number in range(images):
        save(out, number, balanced(torch.from_numpy(np.load(out / f"{number}.npy")), thresholds))
    return sum(path.stat().st_size for path in out.glob("*.npy"))


FORMS = {"stream": stream, "append_and_sort": append_and_sort, "maps_on_disk": maps_on_disk}


def resident(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


def run(form: str, folder: Path, images: int, threads: int) -> dict:
    """One form in this process: seconds, peak MiB beyond the start, MiB on disk beside scores and labels."""
    torch.set_num_threads(threads)
    before = resident("VmRSS")
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        disk = FORMS[form](folder, images, Path(out))
        seconds = time.perf_counter() - start
        kept = sum(int((np.fromfile(p, np.uint8) < 255).sum()) for p in Path(out).glob("*.label"))
    return {
        "form": form,
        "images": images,
        "seconds": round(seconds, 3),
        "peak_mib": round((resident("VmHWM") - before) / MIB, 1),
        "disk_mib": round(disk / MIB, 1),
        "kept": round(kept / (images * SIZE[0] * SIZE[1]), 5),
        "threads": threads,
        "machine": machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=records.output, help="write the records to this JSON list")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--most", type=int, default=200, help="no run of more images than this")
    parser.add_argument("--one", nargs=3, metavar=("FORM", "FOLDER", "IMAGES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        form, folder, images = options.one
        print(json.dumps(run(form, Path(folder), int(images), options.threads)))
        return
    rows = []
    environment = dict(os.environ, OMP_NUM_THREADS=str(options.threads))
    with tempfile.TemporaryDirectory() as folder:
        make_scores(Path(folder), min(options.most, max(COUNTS["stream"])))
        for form, counts in COUNTS.items():
            for images in (n for n in counts if n <= options.most):
                command = [
                    sys.executable,
                    __file__,
                    "--threads",
                    str(options.threads),
                    "--one",
                    form,
                    folder,
                    str(images),
                ]
                done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
                rows.append(records.stamped(json.loads(done.stdout)))
                print(rows[-1], flush=True)
    if options.output:
        records.write(options.output, rows)


if __name__ == "__main__":
    main()
