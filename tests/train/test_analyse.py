"""The analysis of a run against the whole of it in NumPy at once, on runs whose data lie in files."""

from __future__ import annotations

import json
import math
import sys
import types
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from fastuda.cli import analyse as room
from fastuda.cli.analyse import main, predict_output
from fastuda.methods import build_method
from fastuda.train.checkpoint import save_checkpoint
from fastuda.train.config import parse, to_dict
from fastuda.train.inputs import Inputs
from fastuda.train.restore import restore

H, W, K, TARGETS = 24, 40, 19, 3
_opened: list[str] | None = None


def _hook(event, arguments):
    if _opened is not None and event in ("open", "os.scandir", "os.listdir") and arguments:
        _opened.append(str(arguments[0]))


sys.addaudithook(_hook)


def folder(root, name: str, count: int, seed: int, labels: tuple[int, int] = (H, W)) -> dict:
    """A folder data set of noise with large patches of all classes but two, and some ignored rows."""
    rng = np.random.default_rng(seed)
    for kind in ("images", "labels"):
        (root / name / kind).mkdir(parents=True)
    for number in range(count):
        ids = rng.integers(0, K - 2, (-(-labels[0] // 4), -(-labels[1] // 4))).astype(np.uint8)
        ids = ids.repeat(4, 0).repeat(4, 1)[: labels[0], : labels[1]]
        ids[:3] = 255
        photo = Image.fromarray(rng.integers(0, 255, (*labels, 3), dtype=np.uint8))
        photo.save(root / name / "images" / f"{number}.png")
        Image.fromarray(ids).save(root / name / "labels" / f"{number}.png")
    return {"kind": "folder", "root": str(root / name), "size": [H, W]}


@pytest.fixture
def run(tmp_path):
    """A run of an untrained network: validation labels at twice the size of the images, as the benchmarks have them."""
    data = {
        "classes": "cityscapes19",
        "source": folder(tmp_path, "source", 1, 0),
        "target": {**folder(tmp_path, "target", TARGETS, 1), "labelled": False},
        "validation": folder(tmp_path, "validation", 2, 2, (2 * H, 2 * W)),
    }
    task = {"data": data, "model": {"name": "unet", "width": 0.25}, "pass_batch": 2, "device": "cpu"}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(task))
    config = parse(["--task", str(tmp_path / "task.yaml")])
    torch.manual_seed(0)
    method = build_method(config, K)
    inputs = Inputs(config, torch.device("cpu"), tmp_path / "run" / "pseudo_labels")
    with torch.no_grad():  # every class is predicted, some pixels surely
        x = method.eval().run(next(inputs.plain("target")).images, "source").features
        weight, bias = method.network.classifier.weight, method.network.classifier.bias
        weight.copy_(torch.randn_like(weight) / x.std())
        bias.copy_(-weight.flatten(1) @ x.mean((0, 2, 3)))
    work_dir = tmp_path / "run"
    work_dir.mkdir()
    state = {"config": to_dict(config), "method": method.state_dict(), "position": {}, "optimisers": {}}
    save_checkpoint(work_dir / "checkpoint.pt", state)
    return SimpleNamespace(work_dir=work_dir, root=tmp_path, inputs=inputs)


def label_target(run, seed: int = 5) -> np.ndarray:
    """Pseudo labels (TARGETS, H, W), half of them right; the last image gets few."""
    rng = np.random.default_rng(seed)
    truth = np.stack([np.array(Image.open(run.root / f"target/labels/{i}.png")) for i in range(TARGETS)])
    labels = np.where(rng.random(truth.shape) < 0.5, truth, rng.integers(0, K, truth.shape)).astype(np.uint8)
    labels[rng.random(truth.shape) < 0.3] = 255
    labels[-1, 4:] = 255
    for index, label in enumerate(labels):
        run.inputs.save_pseudo_labels(index, label)
    return labels


def analysis(run, *options) -> dict:
    main([str(run.work_dir), *map(str, options)])
    return json.loads((run.work_dir / "analysis.json").read_text(), parse_constant=pytest.fail)


def fails(capsys, run, *options) -> str:
    with pytest.raises(SystemExit) as caught:
        main([str(run.work_dir), *map(str, options)])
    errors = capsys.readouterr().err
    assert caught.value.code == 1 and errors.startswith("error: ") and errors.count("\n") == 1, errors
    return errors


def softmax(logits: np.ndarray) -> np.ndarray:
    power = np.exp(logits - logits.max(0))
    return power / power.sum(0)


def upsampled(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear, with the corners of (K, h, w) on the corners of (K, *size)."""
    for axis, new in zip((1, 2), size, strict=True):
        at = np.arange(new) * (logits.shape[axis] - 1) / (new - 1)
        low = np.minimum(at.astype(int), logits.shape[axis] - 2)
        part = np.expand_dims(at - low, tuple({0, 1, 2} - {axis}))
        logits = logits.take(low, axis) * (1 - part) + logits.take(low + 1, axis) * part
    return logits


def seen(run) -> SimpleNamespace:
    """Everything of the validation split at once: (P,) truths and predictions, features, logits, in float64."""
    restored = restore(run.work_dir)
    stream = restored.inputs.validation_stream()
    rows = {name: [] for name in ("truth", "p", "features", "near", "coarse")}
    for number in range(len(stream)):
        batch = stream[number]
        mean, std = (np.array(v) * 255 for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        images = (batch.images[0].permute(1, 2, 0).double().numpy() - mean) / std
        with torch.no_grad():
            output = restored.method.run(torch.from_numpy(images).permute(2, 0, 1)[None].float(), "source")
        logits, features = output.logits[0].double().numpy(), output.features[0].double().numpy()
        truth = batch.labels[0].numpy()
        rows["truth"].append(truth.ravel())
        rows["p"].append(softmax(upsampled(logits, truth.shape)).reshape(K, -1))
        rows["coarse"].append(softmax(logits).reshape(K, -1))
        rows["features"].append(features.reshape(len(features), -1).T)
        step = truth.shape[0] // features.shape[1], truth.shape[1] // features.shape[2]
        rows["near"].append(truth[:: step[0], :: step[1]].ravel())
    return SimpleNamespace(**{name: np.concatenate(parts, -1 if parts[0].shape[0] == K and name != "features" else 0)
                              for name, parts in rows.items()})  # fmt: skip


def mean_iou(labels, truth, chosen=range(K)) -> float:
    ious = [((labels == k) & (truth == k)).sum() / ((labels == k) | (truth == k)).sum() for k in chosen]
    return np.nanmean(ious)  # of a class that occurs neither in the truth nor in the labels there is none


def entropy(p: np.ndarray) -> float:
    return -(p * np.log(p)).sum(0).mean() / math.log(K)


def test_validation_is_the_whole_split_in_numpy(run):
    found, all_of = analysis(run, "--quantile", 0.6, "--cap", 0.9)["validation"], seen(run)
    labels, valid = all_of.p.argmax(0), all_of.truth < K
    guess, truth = labels[valid], all_of.truth[valid]
    assert found["miou"] == pytest.approx(mean_iou(guess, truth), rel=1e-3)
    thirteen = (0, 1, 2, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18)
    assert set(found["subsets"]) == {"miou16", "miou13", "tail"}
    assert found["subsets"]["miou13"] == pytest.approx(mean_iou(guess, truth, thirteen), rel=1e-3)
    recalls = [(guess[truth == k] == k).mean() for k in range(K) if (truth == k).any()]
    assert found["mean_accuracy"] == pytest.approx(np.mean(recalls), rel=1e-3)
    for name, of in (("truth", truth), ("labels", guess)):
        shares = list(found["distribution"][name].values())
        assert shares == pytest.approx([(of == k).mean() for k in range(K)], abs=1e-4)
    assert found["self_entropy"] == pytest.approx(entropy(all_of.coarse), rel=1e-5)


def test_separation_of_features_is_the_papers(run):
    found, all_of = analysis(run)["validation"], seen(run)
    x, near = all_of.features, all_of.near
    present = [k for k in range(K) if (near == k).any()]
    mu = {k: x[near == k].mean(0) for k in present}
    cosine = np.stack([x @ mu[k] / np.linalg.norm(x, axis=1) / np.linalg.norm(mu[k]) for k in present], 1)
    values = {"pdd": [], "ccd": []}
    names = list(found["iou"])
    for place, k in enumerate(present):
        of_class = cosine[near == k]
        pdd = (of_class[:, place] / (of_class.sum(1) - of_class[:, place])).mean()
        spread = ((x[near == k] - mu[k]) ** 2).sum(1).mean()
        ccd = np.mean([spread / ((mu[k] - mu[j]) ** 2).sum() for j in present if j != k])
        for metric, value in (("pdd", pdd), ("ccd", ccd)):
            assert found[metric][names[k]] == pytest.approx(value, rel=2e-3), (metric, k)
            values[metric].append(value)
    assert found["pdd"]["bicycle"] is None and found["ccd"]["bicycle"] is None and len(present) < K
    assert found["mean_pdd"] == pytest.approx(np.mean(values["pdd"]), rel=2e-3)
    assert found["mean_ccd"] == pytest.approx(np.mean(values["ccd"]), rel=2e-3)


def test_confident_pixels_follow_the_rule_of_each_class(run):
    found, all_of = analysis(run, "--quantile", 0.6, "--cap", 0.3)["validation"]["pseudo_labels"], seen(run)
    labels, confidence = all_of.p.argmax(0), all_of.p.max(0)
    # The lower edge of the 1/1024 that holds the quantile; classes that are never predicted have no threshold to pass.
    edges = np.ones(K)
    for k in set(labels.tolist()):
        ranked = np.sort(confidence[labels == k])
        edges[k] = np.floor(ranked[math.ceil(0.6 * len(ranked)) - 1] * 1024) / 1024
    edges = np.minimum(edges, 0.3)
    assert list(found["thresholds"].values()) == pytest.approx(edges, abs=1.1 / 1024)
    assert len(set(edges)) > 2  # the cap binds some classes only
    edges = np.array(list(found["thresholds"].values()))
    kept, valid = confidence >= edges[labels], all_of.truth < K
    assert found["coverage"] == pytest.approx(kept[valid].mean(), rel=2e-3)
    assert found["miou"] == pytest.approx(mean_iou(labels[kept & valid], all_of.truth[kept & valid]), rel=5e-3)
    coarse = all_of.coarse
    sure = coarse.max(0) >= edges[coarse.argmax(0)]
    assert found["self_entropy"] == pytest.approx(entropy(coarse[:, sure]), rel=5e-3)


def test_training_labels_are_scored_on_request_alone(run, capsys):
    labels = label_target(run)
    truth = np.stack([np.array(Image.open(run.root / f"target/labels/{i}.png")) for i in range(TARGETS)])
    without = analysis(run)["target"]
    assert "mIoU" not in capsys.readouterr().out.split("target training images")[-1]
    assert "miou" not in without and set(without["distribution"]) == {"labels"}
    assert without["coverage"] == pytest.approx((labels < K).mean(), rel=1e-12)
    shares = [(labels == k).sum() / (labels < K).sum() for k in range(K)]
    assert list(without["distribution"]["labels"].values()) == pytest.approx(shares, rel=1e-12)
    found = analysis(run, "--train-labels")["target"]
    both = (labels < K) & (truth < K)
    assert found["miou"] == pytest.approx(mean_iou(labels[both], truth[both]), rel=1e-12)
    assert found["coverage"] == pytest.approx(both.sum() / (truth < K).sum(), rel=1e-12)
    assert found["distribution"]["truth"]["road"] == pytest.approx((truth == 0).sum() / (truth < K).sum(), rel=1e-12)
    assert "mIoU" in capsys.readouterr().out.split("target training images")[-1]

    restored = restore(run.work_dir)
    with torch.no_grad():
        batches = [
            predict_output(restored, batch.images).logits.double().numpy() for batch in restored.inputs.plain("target")
        ]
    p = np.concatenate([softmax(logits) for batch in batches for logits in batch.reshape(len(batch), K, -1)], 1)
    near = labels[:, ::2, ::2].ravel()
    for of in (without, found):
        assert of["self_entropy"] == pytest.approx(entropy(p), rel=1e-5)
        assert of["self_entropy_labelled"] == pytest.approx(entropy(p[:, near < K]), rel=1e-5)


def test_training_labels_are_not_opened_without_the_flag(run, capsys):
    global _opened
    label_target(run)
    for number in range(TARGETS):
        (run.root / f"target/labels/{number}.png").write_text("garbage")
    _opened = []
    try:
        assert analysis(run)["target"]["images"] == TARGETS
        touched = _opened
    finally:
        _opened = None
    assert any(path.startswith(str(run.root / "validation/labels")) for path in touched)
    assert not [path for path in touched if path.startswith(str(run.root / "target/labels"))]
    assert "target/labels" in fails(capsys, run, "--train-labels")


def test_soft_labels_of_a_run(run):
    rng = np.random.default_rng(8)
    p = np.stack([softmax(3 * rng.standard_normal((K, 6, 10))) for _ in range(TARGETS)]).astype(np.float16)
    for index, scores in enumerate(p):
        run.inputs.save_scores(index, scores)
    found = analysis(run, "--train-labels")["target"]
    assert found["kind"] == "scores" and found["coverage"] == 1.0
    assert found["self_entropy"] == found["self_entropy_labelled"]
    exact = p.astype(np.float64).transpose(1, 0, 2, 3).reshape(K, -1)
    exact = exact.clip(1e-300) / exact.sum(0)
    assert found["self_entropy"] == pytest.approx(entropy(exact), rel=1e-4)
    labels = np.stack([upsampled(scores.astype(np.float64), (H, W)).argmax(0) for scores in p])
    shares = [(labels == k).mean() for k in range(K)]
    assert list(found["distribution"]["labels"].values()) == pytest.approx(shares, abs=0.02)


def test_a_run_without_pseudo_labels_says_so(run, capsys, tmp_path):
    main([str(run.work_dir), "--output", str(tmp_path / "figures.json")])
    out = capsys.readouterr().out
    assert "the run saved no pseudo labels" in out and "tail" in out and "MPA" in out and "PDD" in out
    assert json.loads((tmp_path / "figures.json").read_text())["target"] is None
    assert not (run.work_dir / "analysis.json").exists()
    assert "the run saved no pseudo labels" in fails(capsys, run, "--train-labels")


def test_bad_input_is_one_sentence(run, capsys):
    label_target(run)
    missing = SimpleNamespace(work_dir=run.root / "nowhere")
    assert "there is no checkpoint" in fails(capsys, missing)
    assert "--quantile must be between 0 and 1" in fails(capsys, run, "--quantile", 1.5)
    assert "in a directory that exists" in fails(capsys, run, "--output", run.root / "none" / "a.json")
    for foreign in (np.full((H, W), 19, np.uint8), np.zeros((H + 1, W), np.uint8)):
        run.inputs.save_pseudo_labels(1, foreign)
        message = fails(capsys, run)
        assert "000001.png" in message and ("class 19" in message or f"{W}x{H + 1}" in message), message
    run.inputs.save_pseudo_labels(TARGETS, np.zeros((H, W), np.uint8))
    assert f"labels of {TARGETS + 1} images, not of the run's {TARGETS}" in fails(capsys, run)
    assert not (run.work_dir / "analysis.json").exists()


class FakeTSNE:
    """Stands in for scikit-learn's where it is not installed: the first two channels are the places."""

    def __init__(self, perplexity: float, random_state: int) -> None:
        self.perplexity = perplexity

    def fit_transform(self, rows: np.ndarray) -> np.ndarray:
        assert self.perplexity < len(rows)
        return rows[:, :2]


def test_tsne_draws_the_sample_in_the_classes_colours(run, monkeypatch, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    manifold = types.ModuleType("sklearn.manifold")
    manifold.TSNE = FakeTSNE
    monkeypatch.setitem(sys.modules, "sklearn", types.ModuleType("sklearn"))
    monkeypatch.setitem(sys.modules, "sklearn.manifold", manifold)
    drawn = []
    save = room.save_tsne
    monkeypatch.setattr(room, "save_tsne", lambda *call: (drawn.append(call), save(*call)))
    picture = tmp_path / "tsne.png"
    for _ in range(2):
        analysis(run, "--tsne", picture, "--tsne-pixels", 5)
    (_, places, labels, _), (_, again, _, _) = drawn
    assert np.array_equal(places, again) and set(np.bincount(labels)) <= {0, 1, 2, 3, 4, 5}
    assert labels.max() < K - 2 and (np.bincount(labels) == 5).sum() >= 10
    colours = set(map(tuple, np.array(Image.open(picture).convert("RGB")).reshape(-1, 3)))
    palette = run.inputs.classes.palette
    assert {tuple(palette[k]) for k in np.unique(labels)} <= colours
    assert tuple(palette[K - 1]) not in colours
    assert "at least 1" in fails(capsys, run, "--tsne", picture, "--tsne-pixels", 0)


def test_tsne_without_its_libraries_names_the_extra(run, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    assert "pip install 'fastuda[analysis]'" in fails(capsys, run, "--tsne", tmp_path / "a.png")
    assert not (run.work_dir / "analysis.json").exists() and not (tmp_path / "a.png").exists()


def test_tsne_separates_what_is_apart():
    pytest.importorskip("sklearn")
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 2
    features = torch.randn(60, 8, generator=generator) + 20 * labels.unsqueeze(1)
    places = room.tsne(features)
    assert np.array_equal(places, room.tsne(features))
    first, second = (places[labels == k].mean(0) for k in (0, 1))
    for k, own, other in ((0, first, second), (1, second, first)):
        of_class = places[labels == k]
        assert (np.linalg.norm(of_class - own, axis=1) < np.linalg.norm(of_class - other, axis=1)).all()
    with pytest.raises(ValueError, match="at least 4 labelled pixels"):
        room.tsne(features[:3])
    with pytest.raises(ValueError, match="not finite"):
        room.tsne(features / 0)


@pytest.mark.slow
def test_a_trained_run_by_its_command(tiny, tmp_path, command):
    process = command("--task", tiny, "--work-dir", tmp_path / "run")
    assert process.wait(240) == 0, process.stderr.read()
    process = command(tmp_path / "run", "--train-labels", module="fastuda.analyse")
    out, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    report = json.loads((tmp_path / "run" / "analysis.json").read_text())
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert report["method"] == "sdca" and report["validation"]["miou"] == result["stages"][-1]["miou"]
    assert report["validation"]["mean_accuracy"] == result["stages"][-1]["mean_accuracy"]
    assert report["target"]["images"] == 6 and 0 < report["target"]["coverage"] < 1
    assert report["validation"]["pseudo_labels"]["quantile"] == 0.5 and "pseudo labels, training images" in out
