"""The parts of a measuring session; each adds its rows as soon as it has them."""

import json
import statistics
from pathlib import Path

from benchmarks.session.runner import LeftOut, Session, whole_lines

TINY = "tests/helpers/tiny_run.py"
TINY_SPEED = (
    *("--tiny", "--no_scaling", "--variants=tiny", "--sizes=28", "--dtypes=float32", "--batch=2"),
    *("--predict_batch=2", "--shape=29,23,5", "--rows=encoder", "--peer_modes=", "--rounds=1"),
)
MANY = 200  # volumes


def base(session: Session) -> None:
    """A run with ViT-B, which the next part predicts with."""
    _train(session, "base", 30, 5)


def giant(session: Session) -> None:
    """The paper's encoder."""
    _train(session, "giant", 20, 5)


def cpu(session: Session) -> None:
    """The laptop's recipe, whose steps are so small that launching them counts."""
    _train(session, "cpu", 1000, 100)


def _train(session: Session, config: str, steps: int, log_every: int) -> None:
    """Trains for a few steps: seconds to the first, and speed after it.

    The devices are waited for with every line of the log, so there are few.
    """
    workdir, path = session.folder / config, f"configs/{config}.py"
    if session.options.tiny:
        path, steps, log_every = f"{TINY}:{session.data}", 6, 2
    fields: dict[str, object] = {"data.root": session.data, "train.steps": steps}
    fields |= {"train.log_every": log_every, "train.evaluate_every": steps}
    fields |= {"train.checkpoint_every": steps, "data.cache_dir": session.folder / "slices"}
    line = [f"--config={path}", f"--workdir={workdir}"]
    line += [f"--config.{name}={value}" for name, value in fields.items()]
    metrics, trace = workdir / "metrics.jsonl", session.folder / f"{config}.trace.json"
    try:
        seconds = session.run(config, "lagseg_jax.main", *line, watch=metrics, trace=str(trace))
    finally:
        rows = [json.loads(line) for line in whole_lines(metrics)]
        speeds = [row["slices_per_second"] for row in rows if "slices_per_second" in row]
        if speeds:
            session.add("training", statistics.median(speeds), "slices/s")
    session.add("main as a whole", seconds, "s")
    _add_stages(session, "main", trace)


def predict(session: Session) -> None:
    """One volume twice, the first time without compiled code, then many."""
    images = sorted(session.data.rglob("enhanced.nii.gz"))
    many = session.folder / "many"
    many.mkdir()
    for number in range(6 if session.options.tiny else MANY):
        (many / f"{number:03}.nii.gz").symlink_to(images[number % len(images)])
    seconds = {}
    for name, given in {"first": images[0], "second": images[0], "many": many}.items():
        trace = session.folder / f"{name}.trace.json"
        line = [f"--workdir={session.folder / 'base'}", "-i", str(given)]
        line += ["-o", str(session.folder / f"{name}_masks")]
        seconds[name] = session.run(name, "lagseg_jax.predict", *line, trace=str(trace))
        session.add(f"predict, {name}", seconds[name], "s")
        _add_stages(session, f"predict, {name}", trace)
    more = len(list(many.iterdir())) - 1
    session.add("predict, many", more / (seconds["many"] - seconds["second"]), "volumes/s")


def throughput(session: Session) -> None:
    """How busy many volumes keep the device: `benchmarks.throughput` with the run of `base`."""
    output = session.folder / "throughput.json"
    line = [f"--workdir={session.folder / 'base'}", f"--input={session.data}"]
    line.append(f"--output={output}")
    session.run("throughput", "benchmarks.throughput", *line, cache="predict")
    found = json.loads(output.read_text())
    for name, seconds in found["seconds"].items():
        session.add(f"{name}, alone", 1e3 * seconds / found["volumes"], "ms per volume")
    session.add("predict", found["volumes_per_second"], "volumes/s")
    session.add("devices busy", found["device_share"], "of the time")


def _add_stages(session: Session, name: str, trace: Path) -> None:
    """Where the seconds of a command went."""
    if trace.exists():
        for stage in json.loads(trace.read_text())["stages"]:
            session.add(f"{name}: {stage['stage']}", stage["seconds"], "s")


def speed(session: Session) -> None:
    """`python -m benchmarks --quick`, whose JSON and table stay in the folder."""
    options, output = session.options, session.folder / "speed.json"
    minutes = session.left() / 60 - 0.8  # it ends what it has begun
    if minutes < (0.1 if options.tiny else 2):
        raise LeftOut(f"speed: {session.left():.0f} s are left, expected 3 minutes")
    line = ["--quick", f"--output={output}", f"--minutes={minutes:.2f}"]
    line += [f"--peer_python={options.peer_python or options.python}"]
    try:
        session.run("speed", "benchmarks", *line, *(TINY_SPEED if options.tiny else ()))
    finally:
        cases = json.loads(output.read_text())["cases"] if output.exists() else []
        for case in cases:
            for row in case["rows"]:
                if "seconds" in row:
                    what = f"{case['title']}: {row['row']}, {row['side']}"
                    session.add(what, 1e3 * row["seconds"]["median"], "ms")


def accuracy(session: Session) -> None:
    """Ours and nnU-Net 2d after equal time, where nnU-Net is."""
    options, workdir = session.options, session.folder / "accuracy"
    if not options.nnunet_python:
        raise LeftOut("accuracy: no --nnunet_python, expected an interpreter with nnunetv2")
    line = [f"--data={options.data or session.data}", f"--workdir={workdir}", "--seeds=1"]
    line += ["--nnunet=2d", f"--nnunet_python={options.nnunet_python}", "--no_peer"]
    if options.tiny:
        line += [f"--config={TINY}:{session.data}", "--counts=3,1,2", "--nnunet_memory=0.5"]
        line.append("--minutes=0.02")
    else:
        line += [f"--config={options.config}", f"--counts={options.counts}"]
        line.append(f"--minutes={options.accuracy_minutes}")
    try:
        session.run("accuracy", "benchmarks.accuracy", *line)
    finally:
        runs = workdir / "runs.json"
        for run in json.loads(runs.read_text())["runs"] if runs.exists() else []:
            dice = statistics.fmean(case["dice"] for case in run["cases"].values())
            session.add(f"{run['arm']}, {run['steps']} steps: Dice", dice, "")
            session.add(f"{run['arm']}: one volume", run["volume_seconds"], "s")
