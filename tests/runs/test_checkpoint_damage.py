"""Checkpoints that are damaged, and saves that fail."""

import errno
import logging
import resource
import shutil

import jax
import numpy as np
import pytest

from lagseg_jax.runs import checkpoint as checkpoint_module
from lagseg_jax.runs.checkpoint import Checkpoints
from lagseg_jax.runs.train_state import is_whole, make_record
from lagseg_jax.runtime.errors import InputError, TrainingError
from small_checkpoints import save_all, state_at, steps


def quiet(test):
    """For tests in which Orbax fails."""
    ignored = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    return ignored(pytest.mark.usefixtures("failed_futures")(test))


DAMAGE = {
    "deleted": lambda path, content: path.unlink(),
    "empty": lambda path, content: path.write_bytes(b""),
    "cut": lambda path, content: path.write_bytes(content[: len(content) // 2]),
    "zeroed": lambda path, content: path.write_bytes(bytes(len(content))),
    "flipped": lambda path, content: path.write_bytes(
        content[: len(content) // 2]
        + bytes([content[len(content) // 2] ^ 16])
        + content[len(content) // 2 + 1 :]
    ),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Two checkpoints; not to be changed."""
    workdir = tmp_path_factory.mktemp("saved")
    save_all(workdir, {1: 0.4, 2: 0.6})
    return workdir


def files_of(workdir, step):
    folder = workdir / "checkpoints" / str(step)
    return sorted(p.relative_to(workdir) for p in folder.rglob("*") if p.is_file())


@quiet
@pytest.mark.parametrize("how", DAMAGE)
def test_any_damaged_file_costs_one_checkpoint_at_most(saved, tmp_path, caplog, how):
    """The state is that of step 2 to the last bit, or that of step 1 with a warning."""
    caplog.set_level(logging.WARNING, "lagseg_jax.runs.checkpoint")
    fallbacks = 0
    for number, file in enumerate(files_of(saved, 2)):
        workdir = tmp_path / str(number)
        shutil.copytree(saved, workdir)
        DAMAGE[how](workdir / file, (workdir / file).read_bytes())
        caplog.clear()
        with Checkpoints(workdir, "abc") as checkpoints:
            state, data = checkpoints.restore_newest(state_at(0))
        step = int(state.step)
        jax.tree.map(np.testing.assert_array_equal, state, state_at(step))
        assert data == {"slices_consumed": 8 * step}
        folder = workdir / "checkpoints"
        assert {p.name for p in folder.iterdir()} == {"1", "2" if step == 2 else "2.damaged"}, file
        if step == 1:
            fallbacks += 1
            ours = [r for r in caplog.records if r.name == "lagseg_jax.runs.checkpoint"]
            (message,) = (record.getMessage() for record in ours)
            assert str(folder / "2") in message and str(folder / "1") in message
    assert fallbacks >= 4


def damage(workdir, step, file="extra/metadata"):
    path = next((workdir / "checkpoints" / str(step)).glob(file))
    path.write_bytes(bytes(path.stat().st_size))


def test_a_damaged_step_can_be_saved_anew(saved, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(saved, workdir)
    damage(workdir, 2)
    with Checkpoints(workdir, "abc") as checkpoints:
        checkpoints.restore_newest(state_at(0))
        assert checkpoints.newest() == 1 and checkpoints.best() == (1, 0.4)
        checkpoints.save(state_at(2), {"slices_consumed": 16}, 0.7)
    with Checkpoints(workdir, "abc") as checkpoints:
        assert checkpoints.best() == (2, 0.7)
        assert int(checkpoints.restore_newest(state_at(0))[0].step) == 2


def test_a_step_that_is_damaged_twice_is_set_aside_twice(saved, tmp_path):
    """The folder of the first time is there already."""
    workdir = tmp_path / "run"
    shutil.copytree(saved, workdir)
    for _ in range(2):
        damage(workdir, 2)
        with Checkpoints(workdir, "abc") as checkpoints:
            assert int(checkpoints.restore_newest(state_at(0))[0].step) == 1
        save_all(workdir, {2: 0.6})
    assert {p.name for p in (workdir / "checkpoints").iterdir()} == {"1", "2", "2.damaged"}


@pytest.mark.parametrize("part", ["params", "opt_state"])
def test_values_that_are_not_those_of_the_record_are_damage(tmp_path, caplog, monkeypatch, part):
    """Whole files, but not what was saved: Orbax reads them, only the SHA-256 tells."""
    save_all(tmp_path, {1: 0.4})
    other = state_at(2).replace(**{part: jax.tree.map(lambda x: x + 1, getattr(state_at(2), part))})
    with Checkpoints(tmp_path, "abc") as checkpoints:
        right = make_record(state_at(2), {}, "abc", 0.6)
        monkeypatch.setattr(checkpoint_module, "make_record", lambda *_: right)
        checkpoints.save(other, {}, 0.6)
    with Checkpoints(tmp_path, "abc") as checkpoints:
        assert int(checkpoints.restore_newest(state_at(0))[0].step) == 1
    assert f"the SHA-256 of its {part} is not what was saved" in caplog.text


def test_a_changed_record_is_damage(saved, tmp_path):
    """Of any of its fields; the validation Dice decides which model is the best."""
    record = make_record(state_at(2), {"slices_consumed": 16}, "abc", 0.6)
    assert is_whole(record)
    for field in record:
        assert not is_whole(record | {field: "other"}), field
    workdir = tmp_path / "run"
    shutil.copytree(saved, workdir)
    (path,) = (workdir / "checkpoints" / "1").glob("extra/metadata")
    path.write_text(path.read_text().replace("0.4", "0.9"))
    with Checkpoints(workdir, "abc", read_only=True) as checkpoints:
        with pytest.raises(
            InputError, match=r"checkpoints/1 is damaged \(the SHA-256 of its record"
        ):
            checkpoints.best()


@quiet
def test_never_a_silent_fresh_start(saved, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(saved, workdir)
    damage(workdir, 1)
    damage(workdir, 2, "state/manifest.ocdbt")
    for _ in range(2):  # the second start, too
        with Checkpoints(workdir, "abc") as checkpoints:
            with pytest.raises(InputError, match=r"not one checkpoint.*1: .*2: "):
                checkpoints.restore_newest(state_at(0))
    assert steps(workdir) == [1, 2]


@quiet
def test_a_reader_never_takes_another_model(saved, tmp_path):
    """Whichever of the checkpoints is damaged: it might be the best."""
    for step in (1, 2):
        workdir = tmp_path / str(step)
        shutil.copytree(saved, workdir)
        damage(workdir, step)
        with Checkpoints(workdir, "abc", read_only=True) as checkpoints:
            with pytest.raises(InputError, match=rf"checkpoints/{step} is damaged"):
                checkpoints.best()
    workdir = tmp_path / "parameters"
    shutil.copytree(saved, workdir)
    for file in (workdir / "checkpoints" / "2" / "state").rglob("d/*"):
        DAMAGE["flipped"](file, file.read_bytes())
    with Checkpoints(workdir, "abc", read_only=True) as checkpoints:
        assert checkpoints.best() == (2, 0.6)
        with pytest.raises(InputError, match="checkpoints/2 is damaged"):
            checkpoints.restore_params(2, {"kernel": state_at(0).params["kernel"]})


# Saves that fail
@pytest.fixture
def no_large_files():
    """Writing beyond 20 kB fails, as on a full disk; Python ignores the signal that comes along."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@quiet
def test_a_failed_save_is_not_the_latest_and_blocks_no_later_one(tmp_path, no_large_files, caplog):
    large = 50_000
    with Checkpoints(tmp_path, "abc") as checkpoints:
        checkpoints.save(state_at(1), {"slices_consumed": 8}, 0.5)
        checkpoints.save(state_at(2), {"slices_consumed": 16}, 0.4)
        checkpoints.save(state_at(3, large), {"slices_consumed": 24}, 0.9)
        checkpoints.save(state_at(4, large), {"slices_consumed": 32}, 0.9)
        checkpoints.save(state_at(5), {"slices_consumed": 40}, 0.3)
        assert checkpoints.failed == [3, 4]
        assert checkpoints.newest() == 5 and checkpoints.best() == (1, 0.5)
        no_large_files()
        checkpoints.save(state_at(6, large), {"slices_consumed": 48}, 0.2)
    assert [f"step {n} could not be saved" in caplog.text for n in range(1, 7)] == [
        *(False, False, True, True, False, False)
    ]
    assert "that of step 2 stays" in caplog.text
    assert steps(tmp_path) == [1, 5, 6]
    assert all(p.name.isdigit() for p in (tmp_path / "checkpoints").iterdir())
    with Checkpoints(tmp_path, "abc") as checkpoints:
        assert int(checkpoints.restore_newest(state_at(0, large))[0].step) == 6


@pytest.mark.parametrize(
    ("before", "said"), [([], "none before it"), ([1], "that of step 1 stays")]
)
def test_what_stays_is_said(tmp_path, caplog, monkeypatch, before, said):
    save_all(tmp_path, dict.fromkeys(before, 0.5))
    with Checkpoints(tmp_path, "abc") as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "save", full_disk)
        checkpoints.save(state_at(2), {}, 0.6)
        assert checkpoints.failed == [2] and checkpoints.newest() == max(before, default=None)
    assert said in caplog.text


def test_one_of_several_processes_does_not_go_on_alone(tmp_path, monkeypatch):
    with Checkpoints(tmp_path, "abc") as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "save", full_disk)
        with (
            monkeypatch.context() as patch,
            pytest.raises(TrainingError, match=r"step 2 .*No space"),
        ):
            patch.setattr(jax, "process_count", lambda: 2)
            checkpoints.save(state_at(2), {}, 0.6)


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")
