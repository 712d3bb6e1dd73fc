"""The record of a run: read back as it was written, and not to be contradicted."""

import json

import pytest

from configs import default
from lagseg_jax.runs.workdir import FIXED, read_config, write_config
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import write_atomically

# A changed value for each field that the checkpoints depend on.
CHANGES = {
    "data.image_size": 224,
    "data.clip_percentiles": (1.0, 99.0),
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
    config.update_from_flattened_dict(fields)
    return config


def test_round_trip(tmp_path):
    config = changed(**{"data.root": "/data/la", "data.counts": (16, 4, 4), "train.epochs": 0.5})
    write_config(tmp_path / "runs" / "new", config)
    restored = read_config(tmp_path / "runs" / "new")
    assert restored.to_dict() == config.to_dict()
    assert [p.name for p in (tmp_path / "runs" / "new").iterdir()] == ["config.json"]
    for field in ("data.counts", "decoder.widths", "data.clip_percentiles"):
        section, name = field.split(".")
        assert isinstance(restored[section][name], tuple)
    assert isinstance(restored.train.epochs, float) and isinstance(restored.seed, int)


def test_the_same_config_again_is_accepted(tmp_path):
    write_config(tmp_path, default.get_config())
    write_config(tmp_path, default.get_config())
    write_config(tmp_path, read_config(tmp_path))


def test_every_fixed_field_is_tested_here():
    assert set(CHANGES) == set(FIXED)


@pytest.mark.parametrize("field", CHANGES)
def test_what_the_checkpoints_depend_on_may_not_change(tmp_path, field):
    write_config(tmp_path, default.get_config())
    (tmp_path / "checkpoints" / "20").mkdir(parents=True)
    record = (tmp_path / "config.json").read_text()
    with pytest.raises(InputError) as error:
        write_config(tmp_path, changed(**{field: CHANGES[field]}))
    section, name = field.split(".")
    before = default.get_config()[section][name]
    for part in (f"config.{field} is {CHANGES[field]!r}", repr(before), "config.json", "--workdir"):
        assert part in str(error.value)
    assert (tmp_path / "config.json").read_text() == record


def test_a_start_that_failed_before_its_first_checkpoint_binds_nobody(tmp_path):
    write_config(tmp_path, default.get_config())
    (tmp_path / "checkpoints" / "20.orbax-checkpoint-tmp").mkdir(parents=True)
    config = changed(**{"encoder.variant": "small"})
    write_config(tmp_path, config)
    assert read_config(tmp_path).to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("field", "value"),
    [("train.epochs", 70.0), ("train.learning_rate", 1e-4), ("data.root", "/moved"), ("seed", 1)],
)
def test_other_fields_may_change_and_are_recorded(tmp_path, field, value):
    write_config(tmp_path, default.get_config())
    config = changed(**{field: value})
    write_config(tmp_path, config)
    assert read_config(tmp_path).to_dict() == config.to_dict()


@pytest.mark.parametrize("content", [None, "", '{"data": ', "[]", '{"model_type": "dinov2"}'])
def test_a_folder_that_is_no_run_is_named(tmp_path, content):
    path = tmp_path / "run" / "config.json"
    if content is not None:
        path.parent.mkdir()
        path.write_text(content)
    with pytest.raises(InputError, match=rf"{path} .*, expected the record of a training run"):
        read_config(tmp_path / "run")


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
