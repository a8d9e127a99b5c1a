"""Every operator on the fake card: forward and backward, both backends, three dtypes, streams, graphs, two devices.

    python tests/fake_card/operators.py [--output operators.json] [--only mode_losses] [--backends cuda triton]

Checked of every call: no launch that a real card would refuse, all launches on the current stream of the tensors'
device, all pointers of our kernels in that device's memory, no wait of the host, nothing illegal in a graph.
All forms of the dispatch table must be reached with each backend; those that a backend does not serve are listed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fake_card import card  # noqa: E402

BACKENDS = ("cuda", "triton")
OTHER_DEVICE = "a pointer to memory of another device"  # the driver's words

Row = dict[str, object]


class Checks:
    """Runs calls in each surrounding and collects what is wrong with them."""

    def __init__(self) -> None:
        import torch

        self.torch, self.driver = torch, card.Driver()

    def plain(self, run: Callable, device) -> list[str]:
        stream = self.torch.cuda.current_stream(device)
        return self.watched(run, stream)

    def second_stream(self, run: Callable, device) -> list[str]:
        stream = self.torch.cuda.Stream(device)
        # As a user writes it: the stream's device becomes the current one.
        with self.torch.cuda.stream(stream):
            return self.watched(run, stream)

    def watched(self, run: Callable, stream) -> list[str]:
        """What is wrong with one warm call whose launches belong on ``stream``."""
        current = self.torch.cuda.current_device()
        self.driver.begin()
        with self.driver.only(stream):
            run()
        record = self.driver.record()
        found = [*record.faults, *(f"the host waits in {name} ({n} times)" for name, n in record.waits.items())]
        if not record.own:
            found.append("no kernel of ours was launched")
        if self.torch.cuda.current_device() != current:
            found.append(f"leaves device {self.torch.cuda.current_device()} current, it was {current}")
        return found

    def graph(self, run: Callable, device, generators: list) -> list[str]:
        """What is wrong with the call in a CUDA graph, which is then replayed."""
        graph = self.torch.cuda.CUDAGraph()
        # Before 2.14 each generator but the device's own must be registered with a graph.
        older = tuple(int(part) for part in self.torch.__version__.split(".")[:2]) < (2, 14)
        for generator in generators if older else []:
            graph.register_generator_state(generator)
        stream = self.torch.cuda.Stream(device)
        self.driver.begin(keep_launches=True)
        with self.torch.cuda.device(device):
            with self.torch.cuda.graph(graph, stream=stream), self.driver.only(stream):
                run()
            record = self.driver.record()
            graph.replay()
        outside = [x.kernel for x in record.launches if not x.captured and not x.kernel.startswith("_ZN2at")]
        found = [*record.faults, *(f"outside the graph: {kernel}" for kernel in outside)]
        return found if record.own else [*found, "no kernel of ours is in the graph"]


def check_that_faults_are_seen(checks: Checks) -> None:
    """RuntimeError if a planted fault passes: all checks would then pass for nothing."""
    torch, device = checks.torch, checks.torch.device("cuda", 0)
    from fastuda import ops

    labels = torch.zeros(1, 4, 4, dtype=torch.uint8, device=device)
    other = torch.cuda.Stream(device)

    def good():
        return ops.confusion_matrix(labels, labels, 3)

    def on_another_stream():
        with torch.cuda.stream(other):
            return good()

    def of_another_device():
        return torch.ops.fastuda.confusion_matrix_cuda(labels, labels.to("cuda:1"), 3)

    good()
    plants = {
        OTHER_DEVICE: (checks.plain, of_another_device),
        "the host waits": (checks.plain, lambda: good().cpu()),
        "not on the current stream": (checks.plain, on_another_stream),
        "no kernel of ours": (checks.plain, lambda: torch.zeros(3, device=device)),
        "of ours is in the graph": (lambda run, d: checks.graph(run, d, []), lambda: torch.zeros(3, device=device)),
    }
    for expected, (check, run) in plants.items():
        if not any(expected in text for text in check(run, device)):
            raise RuntimeError(f"a planted fault is not seen: {expected}")
    if wrong := [*checks.plain(good, device), *checks.graph(good, device, [])]:
        raise RuntimeError(f"a call without a fault is blamed: {wrong}")


def one_call(checks: Checks, call, direction: str, device, backend: str, dtype: str) -> Row | None:
    """The row of a call; None for a direction that it does not have."""
    from fake_card import calls, served

    from fastuda import ops

    inputs = calls.Inputs(device, calls.DTYPES[dtype])
    row = {"call": call.name, "direction": direction, "device": str(device), "backend": backend, "dtype": dtype}
    with ops.use_backend(backend), served.served() as found:
        try:
            run = (calls.forward_of if direction == "forward" else calls.both_of)(call, inputs)
            if run is None:
                return None
            checks.driver.begin()
            run()
            # What the padding of a struct holds can be an old address of the device that was used before; the warm call
            # has none of those left, and sees a wrong pointer again.
            seen = [fault for fault in checks.driver.record().faults if OTHER_DEVICE not in fault]
            wrong = [f"first call: {fault}" for fault in seen]
            wrong += [f"warm call: {fault}" for fault in checks.plain(run, device)]
            record = checks.driver.record()
            row |= {"launches": record.own, "torch_launches": record.others}
            wrong += [f"second stream: {fault}" for fault in checks.second_stream(run, device)]
            wrong += [f"graph: {fault}" for fault in checks.graph(run, device, inputs.generators)]
        except RuntimeError as error:
            if "does not serve" in str(error):
                return row | {"unserved": str(error), "faults": []}
            wrong = [f"{type(error).__name__}: {str(error).splitlines()[0]}"]
    forms = {form: sorted(backends) for form, backends in found.items()}
    wrong += [f"{form} was served by {b}" for form, served_by in forms.items() for b in served_by if b != backend]
    return row | {"forms": sorted(forms), "faults": list(dict.fromkeys(wrong))}


def run_all(only: str, backends: list[str], dtypes: list[str]) -> list[Row]:
    import torch
    from fake_card import calls, served

    served.check_that_falls_are_seen()
    checks, rows = Checks(), []
    check_that_faults_are_seen(checks)
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        for call in (call for call in calls.CALLS if only in call.name):
            for backend in backends:
                for dtype in dtypes if call.dtypes else dtypes[:1]:
                    for direction in ("forward", "both"):
                        if row := one_call(checks, call, direction, device, backend, dtype):
                            rows.append(row)
                            report(row)
    return rows


def report(row: Row) -> None:
    what = f"{row['device']} {row['backend']:6} {row['dtype']} {row['call']} {row['direction']}"
    if "unserved" in row:
        print(f"left out  {what}: {row['unserved']}", flush=True)
    for fault in row["faults"]:
        print(f"WRONG     {what}: {fault}", flush=True)


def unreached(rows: list[Row], table: dict, backends: list[str]) -> list[str]:
    """Sentences on the forms of the dispatch table that no call reached with a backend, nor was refused by it."""
    found = []
    for backend in backends:
        mine = [row for row in rows if row["backend"] == backend]
        reached = {form for row in mine if "unserved" not in row for form in row["forms"]}
        refused = {form for form in table for row in mine if f"does not serve {form} " in str(row.get("unserved", ""))}
        found += [f"{form}: no call reaches its {backend} kernel" for form in table if form not in reached | refused]
    return found


def summary(rows: list[Row]) -> dict[str, object]:
    """Counts, and each fault and refusal once, for the committed result."""
    served = [row for row in rows if "unserved" not in row]
    return {
        "calls": len(served),
        "launches of ours": sum(row.get("launches", 0) for row in served),
        "launches of torch": sum(row.get("torch_launches", 0) for row in served),
        "devices": sorted({row["device"] for row in rows}),
        "not served": sorted({row["unserved"] for row in rows if "unserved" in row}),
        "faults": sorted({f"{row['backend']} {row['call']}: {fault}" for row in rows for fault in row["faults"]}),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON file of the summary")
    parser.add_argument("--only", default="", help="calls whose name holds this")
    parser.add_argument("--backends", nargs="+", choices=BACKENDS)
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "fp16", "bf16"])
    options = parser.parse_args()
    card.on_the_card(devices=2)
    from fastuda.ops._dispatch import OLDEST_TRITON, TABLE

    # Triton compiles for no card older than 7.0.
    newer = card.CARDS[os.environ["FAKE_CARD"]] >= OLDEST_TRITON
    backends = options.backends or (list(BACKENDS) if newer else ["cuda"])
    rows = run_all(options.only, backends, options.dtypes)
    found = summary(rows)
    if not options.only:
        found["unreached"] = unreached(rows, TABLE, backends)
        for sentence in found["unreached"]:
            print(f"WRONG     {sentence}")
    print(f"{found['calls']} calls, {found['launches of ours']} launches of ours, {len(found['faults'])} faults")
    if options.output:
        options.output.write_text(json.dumps(found, indent=1) + "\n")
    return int(bool(found["faults"] or found.get("unreached")))


if __name__ == "__main__":
    sys.exit(main())
