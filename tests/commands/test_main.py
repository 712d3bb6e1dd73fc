"""The command line: what is wrong in it or in the data is one sentence and status 2."""

import gzip
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from configs import default
from lagseg_jax import main
from lagseg_jax.data.layouts.detect import detect
from lagseg_jax.data.split import split_by_patient
from lagseg_jax.runtime.console import exit_status

ROOT = Path(default.__file__).parent.parent


def command(*arguments, config="demo"):
    return [f"--config={ROOT}/configs/{config}.py", *arguments]


@pytest.fixture
def run_main(monkeypatch, tmp_path, capsys):
    """Runs the command line in this process: (status, what it said last)."""
    monkeypatch.chdir(ROOT)

    def call(*arguments, config="demo"):
        line = command(f"--workdir={tmp_path / 'run'}", *arguments, config=config)
        status = exit_status(lambda: main.main(line))
        lines = capsys.readouterr().err.strip().splitlines()
        return status, lines[-1] if lines else ""

    return call


def dataset_copy(phantom, tmp_path):
    root = tmp_path / "dataset"
    shutil.copytree(phantom, root)
    return root, root / "task2" / "train_data" / "train_2"


def change_image(path, change):
    image = nibabel.load(path)
    voxels, affine = np.asarray(image.dataobj), image.affine
    path.unlink()
    nibabel.save(change(voxels, affine), path)


def missing_label(case):
    (case / "atriumSegImgMO.nii.gz").unlink()
    return case, "atriumSegImgMO.nii.gz"


def shape_mismatch(case):
    path = case / "atriumSegImgMO.nii.gz"
    change_image(path, lambda v, a: nibabel.Nifti1Image(v[:-1], a))
    return path, "(46, 43, 11)"


def geometry_mismatch(case):
    path = case / "atriumSegImgMO.nii.gz"
    moved = np.eye(4)
    moved[0, 3] = 3
    change_image(path, lambda v, a: nibabel.Nifti1Image(v, moved @ a))
    return path, "corners lie"


def nan_voxels(case):
    path = case / "enhanced.nii.gz"

    def change(voxels, affine):
        voxels = voxels.astype(np.float32)
        voxels[3, 5, 7] = np.nan
        return nibabel.Nifti1Image(voxels, affine)

    change_image(path, change)
    return path, "1 "


def four_dimensional(case):
    path = case / "enhanced.nii.gz"
    change_image(path, lambda v, a: nibabel.Nifti1Image(np.stack([v, v], axis=-1), a))
    return path, "(47, 43, 11, 2)"


def corrupt_gzip(case):
    path = case / "enhanced.nii.gz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    path.write_bytes(content)
    return path, ""


def truncated_gzip(case):
    path = case / "enhanced.nii.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-100]))
    return path, ""


def several_label_values(case):
    path = case / "atriumSegImgMO.nii.gz"

    def change(voxels, affine):
        voxels = voxels.copy()
        voxels[:3, :3, :3] = 7
        return nibabel.Nifti1Image(voxels, affine)

    change_image(path, change)
    return path, "config.data.label_value"


@pytest.mark.parametrize(
    "damage",
    [
        missing_label,
        shape_mismatch,
        geometry_mismatch,
        nan_voxels,
        four_dimensional,
        corrupt_gzip,
        truncated_gzip,
        several_label_values,
    ],
)
@pytest.mark.parametrize("part", ["train", "test"])
def test_bad_case_is_one_sentence_before_training(run_main, phantom, tmp_path, damage, part):
    root, case = dataset_copy(phantom, tmp_path)
    path, found = damage(case)
    status, sentence = run_main(
        f"--config.data.root={root}",
        "--config.data.image_size=42",
        f"--config.data.cache_dir={tmp_path / 'cache'}",
        "--config.data.counts=(4,1,1)",
        f"--config.data.split_seed={seed_with_train_2_in(part, phantom)}",
    )
    assert status == 2
    assert sentence.startswith("error: ") and str(path) in sentence and found in sentence
    assert not (tmp_path / "run" / "checkpoints").exists()


def seed_with_train_2_in(part, phantom):
    cases = detect(phantom).cases
    return next(
        seed
        for seed in range(40)
        if "train_2" in split_by_patient(cases, seed=seed, counts=(4, 1, 1))[part]
    )


def test_empty_folder_and_unknown_layout(run_main, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    status, sentence = run_main(f"--config.data.root={empty}")
    assert status == 2 and str(empty) in sentence and "LAScarQS" in sentence
    (empty / "notes.txt").write_text("hello")
    status, sentence = run_main(f"--config.data.root={empty}")
    assert status == 2 and "notes.txt" in sentence and "nearest to" in sentence
    assert "docs/own-data.md" in sentence and "--config.data.images=" in sentence


def test_image_size_that_is_not_a_multiple_of_14(run_main, tmp_path):
    status, sentence = run_main("--config.data.image_size=100")
    assert status == 2
    assert "config.data.image_size is 100" in sentence and "98 or 112" in sentence
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--config.train.epoch=3", "did you mean config.train.epochs?"),
        ("--config.trian.epochs=3", "did you mean config.train.epochs?"),
        ("--config.sead=3", "did you mean config.seed?"),
        ("--config.train=3", "did you mean config.train."),
        ("--config.train.epochs=many", "many"),
        ("--mode=test", "evaluate"),
        ("--confg=3", "did you mean --config?"),
        ("--epochs=3", "did you mean --config.train.epochs?"),
        ("--config=cpus", "did you mean cpu?"),
        ("--config=bass", "did you mean base?"),
        ("--num_processes=2", "--coordinator_address and --process_id"),
        ("--process_id=one", "one"),
    ],
)
def test_typos_are_one_sentence_with_the_nearest_name(run_main, argument, expected):
    status, sentence = run_main(argument)
    assert status == 2 and sentence.startswith("error: ") and expected in sentence


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("    config.tarin.epochs = 3", "AttributeError"),
        ("    config.train.epochs = 'many'", "TypeError"),
        ("    config.seed = int('many')", "ValueError: invalid literal"),
        ("    config.seed = 1 // 0", "ZeroDivisionError"),
        ("    config.seed = (", "SyntaxError"),
        ("    import nothing_there", "ModuleNotFoundError: No module named 'nothing_there'"),
    ],
)
def test_a_broken_config_file_is_named_with_its_line(tmp_path, capsys, line, problem):
    path = tmp_path / "mine.py"
    text = ["from configs import default", "", "def get_config():"]
    text += ["    config = default.get_config()", line, "    return config"]
    path.write_text("\n".join(text))
    assert exit_status(lambda: main.main([f"--config={path}", f"--workdir={tmp_path}"])) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {path}, line 5: {problem}") and said.count("\n") == 1
    assert "Traceback" not in said


def test_missing_config_file(run_main):
    status, sentence = run_main(config="giantt")
    assert status == 2 and "giantt" in sentence


def test_evaluate_without_a_run(run_main, tmp_path):
    status, sentence = run_main("--mode=evaluate")
    assert status == 2 and str(tmp_path / "run") in sentence


def test_typo_exits_without_a_traceback_and_before_jax(tmp_path):
    script = (
        "import sys; from lagseg_jax import main; from lagseg_jax.runtime import console; "
        "status = console.exit_status(main.main); "
        "print('jax' in sys.modules); sys.exit(status)"
    )
    arguments = command(f"--workdir={tmp_path}", "--config.train.lrr=3")
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout.strip() == "False"
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
