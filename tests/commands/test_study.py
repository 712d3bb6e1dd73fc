"""Studies: what their runs are, and what happens to one that fails."""

import functools
import json
import math
import re
import shlex
import signal
import sys

import pytest

from lagseg_jax import study
from lagseg_jax.config.flags import parse_flags
from lagseg_jax.config.validate import flat_fields
from lagseg_jax.evaluation import study as runs_of
from lagseg_jax.evaluation.metrics import METRICS, summarise
from lagseg_jax.reports.study_page import write_results
from lagseg_jax.runtime.console import exit_status
from lagseg_jax.runtime.files import write_csv, write_json
from study_arms import FOLDER, ROOT, THREE_ARMS

pytestmark = pytest.mark.usefixtures("at_root")

FILES = sorted(path for path in FOLDER.glob("*.py") if path.stem != "__init__")
DOCUMENTS = [*FILES, ROOT / "docs" / "reproduce.md"]


def plan(*arguments):
    values = parse_flags(["study", *arguments], study.define_flags)
    content = study.read_study(values.study, values.config, values.arms)
    return content, study.plan_runs(values, content)


def command(name, tmp_path, *more):
    return (
        f"--study={FOLDER}/{name}.py",
        "--config=configs/base.py",
        f"--workdir={tmp_path}",
        "--config.data.root=somewhere",
        *more,
    )


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documented_commands_plan_their_runs(path, tmp_path):
    text = path.read_text().replace("\\\n", " ")
    lines = re.findall(r"python -m lagseg_jax\.study (--study=configs[^`\n]*)", text)
    assert lines, f"{path} names no command"
    for line in lines:
        arguments = shlex.split(line)
        content, runs = plan(*arguments)
        assert {run.arm for run in runs} == set(content["arms"])
        if path in FILES:
            assert f"configs/ablations/{path.name}" in line


def test_arms_change_what_they_say_and_nothing_else(tmp_path):
    for path in FILES:
        content, runs = plan(*command(path.stem, tmp_path, "--config.train.epochs=3"))
        for run in runs:
            fields = flat_fields(run.config)
            base = flat_fields(plan(*command("recipe", tmp_path))[1][0].config)
            changed = {field: value for field, value in fields.items() if base[field] != value}
            assert changed.pop("data.root", "somewhere") == "somewhere"
            assert changed.pop("train.epochs") == 3
            assert changed.items() <= content["arms"][run.arm].items()


def test_four_blocks_are_spread_over_the_encoder(tmp_path):
    for variant, blocks in (("base", "2,5,8,11"), ("giant", "9,19,29,39"), ("tiny", "0,1,2,3")):
        _, runs = plan(*command("blocks", tmp_path, f"--config.encoder.variant={variant}"))
        (four,) = [run for run in runs if run.arm == "four_blocks"]
        assert four.config.fusion.blocks == blocks


def test_weights_follow_the_variant(tmp_path):
    _, runs = plan(*command("variants", tmp_path, "--config.encoder.weights=w/{variant}"))
    assert [run.config.encoder.weights for run in runs] == [
        f"w/{variant}" for variant in ("small", "base", "large", "giant")
    ]


def test_every_arm_fold_and_seed_has_its_folder(tmp_path):
    flags = ("--seeds=2", "--cross_validate", "--arms=off,resized", "--config.seed=7")
    _, runs = plan(*command("injection", tmp_path, *flags))
    assert len(runs) == len({run.workdir for run in runs}) == 2 * 5 * 2
    assert runs[0].workdir == tmp_path / "off" / "fold0" / "seed7"
    assert runs[-1].name == "resized fold4 seed8"
    assert {(r.config.data.fold, r.config.seed) for r in runs} == {
        (fold, seed) for fold in range(5) for seed in (7, 8)
    }
    _, runs = plan(*command("injection", tmp_path))
    assert runs[0].workdir == tmp_path / "off" / "seed0" and runs[0].config.data.fold == -1


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--study=nowhere.py"], "'nowhere.py', which is no file"),
        (["--study=configs/base.py"], "no function get_study"),
        (["--arms=off,offf"], "'offf'"),
        (["--arms=resized"], "reference arm 'off'"),
        (["--seeds=0"], "seeds"),
        (["--seed=2"], "seed"),
        (["--config.train.epoch=2"], "config.train.epochs"),
        (["--config.train.epochs=0"], "arm off: config.train.epochs"),
    ],
)
def test_mistakes_are_one_sentence_before_anything_starts(tmp_path, capsys, more, expected):
    arguments = command("injection", tmp_path / "new", *more)
    assert exit_status(lambda: study.main(list(arguments))) == 2
    sentence = capsys.readouterr().err
    assert sentence.startswith("error: ") and expected in sentence and sentence.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_a_field_that_an_arm_misspells(tmp_path):
    file = tmp_path / "file.py"
    file.write_text(THREE_ARMS.replace("fusion.blocks", "fusion.block"))
    with pytest.raises(ValueError, match=r"arm last: .*did you mean config\.fusion\.blocks"):
        plan(*command("recipe", tmp_path, f"--study={file}"))


def leave_evaluation(run, dice):
    folder = run.workdir / "evaluation"
    folder.mkdir(parents=True)
    rows = [dict.fromkeys(METRICS, 1.0) | {"dice": v, "iou": v, "hd95_mm": math.nan} for v in dice]
    table = [{"case": f"case_{number}", **row} for number, row in enumerate(rows)]
    write_csv(folder / "per_case.csv", ["case", *METRICS], table)
    encoder = {"variant": "tiny", "weights": "random"}
    write_json(folder / "summary.json", {"encoder": encoder, "step": 6, **summarise(rows)})
    (run.workdir / "splits.json").write_text('{"train": ["x", "y"]}')
    (run.workdir / "config.json").write_text(json.dumps(run.config.to_dict()))


def run_all(workdir, content, runs, start):
    publish = functools.partial(write_results, workdir, content, runs)
    return runs_of.run_study(workdir, runs, publish, start)


def starter(fails=(), interrupted_at=None):
    """Stands in for `start_run`; `started` remembers which runs were asked for."""
    started = []

    def start(run, stopped):
        started.append(run.name)
        if run.name == interrupted_at:
            stopped.append(signal.SIGTERM)
            return 75, "saved"
        if run.name in fails:
            return 1, "error: out of memory"
        leave_evaluation(run, (0.5 + len(started) / 100, 0.7))
        return 0, ""

    start.started = started
    return start


def test_one_failing_run_leaves_the_others_alone_and_is_tried_again(tmp_path):
    content, runs = plan(*command("injection", tmp_path, "--seeds=2"))
    start = starter(fails=["off seed1"])
    assert run_all(tmp_path, content, runs, start) == 1
    assert len(start.started) == 6
    text = (tmp_path / "table.md").read_text()
    assert "- off seed1: failed exit status 1: error: out of memory" in text
    assert (tmp_path / "plot.png").exists()
    record = json.loads((tmp_path / "study.json").read_text())
    assert [r["state"] for r in record["runs"]] == ["finished", "failed"] + ["finished"] * 4
    assert all(run["command"].startswith("python -m lagseg_jax.main") for run in record["runs"])

    again = starter()
    assert run_all(tmp_path, content, runs, again) == 0
    assert again.started == ["off seed1"]
    assert "not finished" not in (tmp_path / "table.md").read_text()


def test_a_damaged_finished_run_is_named_and_the_others_make_the_table(tmp_path):
    content, runs = plan(*command("injection", tmp_path))
    assert run_all(tmp_path, content, runs, starter()) == 0
    damaged = runs[1].workdir / "evaluation" / "per_case.csv"
    damaged.write_text("case,dice\na,much\n")
    start = starter()
    assert run_all(tmp_path, content, runs, start) == 1 and not start.started
    text = (tmp_path / "table.md").read_text()
    assert f"- {runs[1].name}: failed {damaged} cannot be read" in text
    record = json.loads((tmp_path / "study.json").read_text())
    assert [r["state"] for r in record["runs"]] == ["finished", "failed", "finished"]
    means = {row["arm"]: row["mean"] for row in record["rows"] if row["metric"] == "dice"}
    assert [means[run.arm] is None for run in runs] == [False, True, False]


def test_an_interrupted_study_keeps_what_it_has(tmp_path):
    content, runs = plan(*command("injection", tmp_path))
    start = starter(interrupted_at="resized seed0")
    assert run_all(tmp_path, content, runs, start) == 75
    assert start.started == ["off seed0", "resized seed0"]
    text = (tmp_path / "table.md").read_text()
    assert "| off | 2 | 0.6050 ± " in text
    assert "- resized seed0: missing" in text and "- pyramid seed0: missing" in text


def test_results_of_two_configs_are_not_mixed(tmp_path):
    content, runs = plan(*command("injection", tmp_path))
    run_all(tmp_path, content, runs, starter())
    plan(*command("injection", tmp_path, "--config.data.root=moved"))
    with pytest.raises(ValueError, match=r"config\.train\.epochs is 3\.0.*another --workdir"):
        plan(*command("injection", tmp_path, "--config.train.epochs=3"))


def test_a_signal_reaches_the_run_once_and_is_waited_for(tmp_path, monkeypatch, capfd):
    script = tmp_path / "python"
    script.write_text(
        "#!/bin/sh\n"
        "trap 'echo saved; exit 75' TERM\n"
        "echo started; sleep 0.5; kill -TERM $PPID\n"
        "for i in 1 2 3 4 5 6 7 8 9; do sleep 0.3; done\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    _, (run,) = plan(*command("recipe", tmp_path))
    before = signal.getsignal(signal.SIGTERM)
    stopped = []
    assert runs_of.start_run(run, stopped) == (75, "saved")
    assert stopped == [signal.SIGTERM] and signal.getsignal(signal.SIGTERM) == before
    assert "[recipe seed0] started" in capfd.readouterr().err


def test_the_reason_of_a_failure_is_the_error_not_what_follows_it(tmp_path, monkeypatch):
    script = tmp_path / "python"
    text = "jax.errors.JaxRuntimeError: RESOURCE_EXHAUSTED: out of memory"
    script.write_text(
        f"#!/bin/sh\necho 'Traceback'\necho '{text}'\necho 'For simplicity'\nexit 1\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    _, (run,) = plan(*command("recipe", tmp_path))
    assert runs_of.start_run(run, []) == (1, text)
