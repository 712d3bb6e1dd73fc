"""The record of a run: read back as it was written, and not to be contradicted."""

import json

import pytest

from configs import default
from lagseg_jax.runs.workdir import (
    FIXED,
    check_continues,
    evaluation_config,
    read_config,
    write_config,
)
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import write_atomically

# A changed value for each field that the checkpoints depend on.
CHANGES = {
    "data.image_size": 224,
    "data.clip_percentiles": (1.0, 99.0),
    "data.window": (-200.0, 800.0),
    "data.plane": "axial",
    "encoder.variant": "small",
    "encoder.registers": 4,
    "encoder.lora_rank": 4,
    "encoder.lora_blocks": 2,
    "fusion.blocks": "last",
    "fusion.learned": False,
    "decoder.scales": (8, 4, 2),
    "decoder.widths": (256, 128, 64, 32, 8),
    "decoder.image_injection": False,
    "decoder.image_path": "pyramid",
}


def changed(**fields):
    config = default.get_config()
    config.update_from_flattened_dict({"data.root": "/data/la"} | fields)
    return config


def test_round_trip(tmp_path):
    config = changed(**{"data.counts": (16, 4, 4), "train.epochs": 0.5})
    write_config(tmp_path / "runs" / "new", config)
    restored = read_config(tmp_path / "runs" / "new")
    assert restored.to_dict() == config.to_dict()
    assert [p.name for p in (tmp_path / "runs" / "new").iterdir()] == ["config.json"]
    for field in ("data.counts", "decoder.widths", "data.clip_percentiles"):
        section, name = field.split(".")
        assert isinstance(restored[section][name], tuple)
    assert isinstance(restored.train.epochs, float) and isinstance(restored.seed, int)


def test_the_same_config_again_is_accepted(tmp_path):
    write_config(tmp_path, changed())
    (tmp_path / "checkpoints" / "20").mkdir(parents=True)
    check_continues(tmp_path, changed())
    check_continues(tmp_path, read_config(tmp_path))


def test_every_fixed_field_is_tested_here():
    assert set(CHANGES) == set(FIXED)


@pytest.mark.parametrize("field", CHANGES)
def test_what_the_checkpoints_depend_on_may_not_change(tmp_path, field):
    write_config(tmp_path, changed())
    (tmp_path / "checkpoints" / "20").mkdir(parents=True)
    record = (tmp_path / "config.json").read_text()
    with pytest.raises(InputError) as error:
        check_continues(tmp_path, changed(**{field: CHANGES[field]}))
    section, name = field.split(".")
    before = default.get_config()[section][name]
    for part in (f"config.{field} is {CHANGES[field]!r}", repr(before), "config.json", "--workdir"):
        assert part in str(error.value)
    assert (tmp_path / "config.json").read_text() == record


def test_a_start_that_failed_before_its_first_checkpoint_binds_nobody(tmp_path):
    write_config(tmp_path, changed())
    (tmp_path / "checkpoints" / "20.orbax-checkpoint-tmp").mkdir(parents=True)
    check_continues(tmp_path, changed(**{"encoder.variant": "small"}))


@pytest.mark.parametrize(
    ("field", "value"),
    [("train.epochs", 70.0), ("train.learning_rate", 1e-4), ("data.root", "/moved")],
)
def test_other_fields_may_change_and_are_recorded(tmp_path, field, value):
    write_config(tmp_path, changed())
    (tmp_path / "checkpoints" / "20").mkdir(parents=True)
    config = changed(**{field: value})
    check_continues(tmp_path, config)
    write_config(tmp_path, config)
    assert read_config(tmp_path).to_dict() == config.to_dict()


def test_an_evaluation_is_of_the_training_with_its_own_predict_and_places(tmp_path, caplog):
    trained = changed(**{"encoder.weights": "weights/base", "train.learning_rate": 1e-4, "seed": 3})
    write_config(tmp_path, trained)
    given = changed(**{"predict.threshold": 0.3, "data.root": "/moved", "train.epochs": 1.0})
    found = evaluation_config(tmp_path, given)
    expected = trained.copy_and_resolve_references()
    expected.predict.threshold, expected.data.root = 0.3, "/moved"
    assert found.to_dict() == expected.to_dict()
    (said,) = caplog.messages
    assert "config.seed, config.train.epochs, config.train.learning_rate, not those" in said
    assert read_config(tmp_path).to_dict() == trained.to_dict()


@pytest.mark.parametrize(
    "content", [None, "", '{"data": ', "[]", "[" * 100_000, '{"a.b": 1}', "null"]
)
def test_a_folder_that_is_no_run_is_named(tmp_path, content):
    path = tmp_path / "run" / "config.json"
    if content is not None:
        path.parent.mkdir()
        path.write_text(content)
    with pytest.raises(InputError, match=rf"{path} .*, expected the record of a training run"):
        read_config(tmp_path / "run")


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("predict.threshold", 5.0, "config.predict.threshold is 5.0, expected a number above 0"),
        ("predict.stride", -1, "config.predict.stride is -1, expected"),
        ("predict.smooth_mm", None, "config.predict.smooth_mm is None, expected"),
        ("predict.stirde", 2, "predict.stirde is not a field of the config, did you mean config.p"),
        ("decoder.widths", [8, 8], "config.decoder.widths is (8, 8), expected"),
    ],
)
def test_the_rules_of_the_config_hold_for_a_record_that_was_edited(
    tmp_path, field, value, expected
):
    write_config(tmp_path, changed())
    path, (section, name) = tmp_path / "config.json", field.split(".")
    record = json.loads(path.read_text())
    record[section][name] = value
    path.write_text(json.dumps(record))
    with pytest.raises(InputError) as error:
        read_config(tmp_path)
    assert str(error.value).startswith(f"{path} is not the record of a training run: ")
    assert expected in str(error.value)


@pytest.mark.parametrize("content", ['{"model_type": "dinov2"}', "{}"])
def test_the_config_of_another_program_is_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json is not the record of a training run: c"):
        read_config(tmp_path)


def test_a_record_that_lacks_a_field_is_refused(tmp_path):
    """What the run did in its place cannot be known."""
    write_config(tmp_path, changed())
    path = tmp_path / "config.json"
    record = json.loads(path.read_text())
    del record["encoder"]["lora_rank"]
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"config\.encoder\.lora_rank is missing"):
        read_config(tmp_path)


def test_a_kill_while_writing_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "splits.json"
    write_atomically(path, "old")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write_atomically(path, "new and longer")
    assert path.read_text() == "old"
    write_atomically(path, json.dumps({"train": []}))
    assert json.loads(path.read_text()) == {"train": []}
    assert [p.name for p in tmp_path.iterdir()] == ["splits.json"]
