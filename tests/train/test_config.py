"""Defaults < preset < task file < command line, and nothing unknown gets in."""

from __future__ import annotations

import pytest
import yaml

from fastuda.train.config import Config, config_from_dict, difference, parse, task_config, to_dict


def test_order_of_precedence(tiny):
    assert task_config(str(tiny)).sdca.covariance == "full"
    released = task_config(str(tiny), preset_name="released")
    assert released.sdca.covariance == "diag"  # from the preset
    assert released.sdca.schedule.iterations == 4  # the task file's
    config = parse(["--task", str(tiny), "--preset", "released", "--sdca.covariance", "full", "--seed", "7", "--amp"])
    assert (config.sdca.covariance, config.seed, config.amp, config.preset) == ("full", 7, True, "released")
    assert config.sdca.self_training.threshold_cap == 0.9


def test_unknown_keys_name_file_and_key(tmp_path):
    path = tmp_path / "task.yaml"
    path.write_text("sdca: {temprature: 1.0}\n")
    with pytest.raises(ValueError, match=r"task\.yaml\.sdca: unknown field 'temprature' .did you mean 'temperature'"):
        task_config(str(path))
    with pytest.raises(ValueError, match="there is no task 'street'"):
        task_config("street")
    with pytest.raises(ValueError, match="--preset 'papers'"):
        task_config("streets", preset_name="papers")


@pytest.mark.parametrize("text", ["accumulate: 0", "warm_up: {schedule: {batch: 0}}", "log_every: 0"])
def test_impossible_values(tmp_path, text):
    path = tmp_path / "task.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"task\.yaml"):
        task_config(str(path))


@pytest.mark.parametrize("preset", ["paper", "released"])
@pytest.mark.parametrize("method", ["source", "sdca"])
def test_every_packaged_task_round_trips(preset, method):
    from importlib import resources

    names = [p.name.removesuffix(".yaml") for p in (resources.files("fastuda") / "configs" / "tasks").iterdir()]
    assert {"streets", "carla_camvid", "day_dusk", "gta5_cityscapes"} <= set(names)
    for name in names:
        config = task_config(name, method, preset)
        text = yaml.safe_dump(to_dict(config))
        assert config_from_dict(yaml.safe_load(text), name) == config
        assert not config.data.target.labelled


def test_the_released_preset_departs_from_the_paper_where_methods_md_says():
    paper, released = (task_config("gta5_cityscapes", "sdca", name) for name in ("paper", "released"))
    assert (paper.optimiser.weight_decay, released.optimiser.weight_decay) == (1e-4, 5e-4)
    assert (paper.sdca.schedule.batch, released.sdca.schedule.batch) == (4, 1)
    assert round(released.sdca.schedule.horizon * released.sdca.schedule.iterations) == 62_500
    assert released.model.norm == "frozen" and released.sdca.self_training.norm == "trained"
    assert released.views.rare_first and not paper.views.rare_first
    assert paper.sdca.schedule.learning_rate == released.sdca.schedule.learning_rate == 2.5e-4
    assert released.warm_up.schedule.learning_rate == 5e-4
    assert paper.views.source.brightness == released.views.source.brightness == 0.5


def test_day_to_dusk_and_streets_see_no_colour_augmentation():
    for task in ("day_dusk", "streets"):
        views = task_config(task).views
        for view in (views.source, views.target, views.self_training):
            assert (view.brightness, view.contrast, view.saturation, view.hue, view.greyscale, view.blur) == (0,) * 6


def test_difference_ignores_what_does_not_decide_what_is_learnt():
    one = to_dict(Config())
    two = to_dict(Config(work_dir="elsewhere", resume=True, log_every=3))
    assert difference(one, two) == ""
    two["sdca"]["temperature"] = 1.0
    assert difference(one, two) == "sdca.temperature (100.0 in the checkpoint, 1.0 now)"
