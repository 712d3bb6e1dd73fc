"""A disk that fills up while a run is saved on it: python tests/faults/disk_full.py (as root)

The workdir of the tiny config lies in a small file system of its own (tmpfs), which is filled when
the first checkpoint is there and stays so. The training must go on to its last step, leave that
checkpoint whole, and end with status 1; with space again, the same command must make the run whole.
"""

import argparse
import subprocess
import tempfile
import time
from pathlib import Path

import tiny_run
from run_files import raw_checkpoint, rows, saved_steps
from runs import ended, launcher

STEPS = 24
TRAIN = {"steps": STEPS, "checkpoint_every": 3, "evaluate_every": 6, "log_every": 1}


def fill(folder):
    """Writes until nothing fits any more; returns the file to delete."""
    path = Path(folder) / "ballast"
    with path.open("wb", buffering=0) as file:
        for size in (2**16, 2**10, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return path


def run_trial(folder, disk):
    """Returns what happened, as a dict."""
    start, root = launcher(folder), tiny_run.write_phantom(folder)
    workdir, log = disk / "run", folder / "log.txt"
    process = start(workdir, root, log, **TRAIN)
    while process.is_alive() and not saved_steps(workdir):
        time.sleep(0.005)
    ballast, before = fill(disk), saved_steps(workdir)
    status, text = ended(process), log.read_text()
    after, written = saved_steps(workdir), len(rows(workdir))
    ballast.unlink()
    raw_checkpoint(workdir, after[-1])
    again = ended(start(workdir, root, log, **TRAIN))
    return {
        "checkpoints when the disk was full": before,
        "checkpoints at the end": after,
        "training reached its last step": f"training {STEPS}/{STEPS}" in text,
        "saves that failed, and were logged": text.count("ERROR: the checkpoint of step"),
        "rows of metrics.jsonl written": written,
        "exit status": status,
        "last lines": text.splitlines()[-3:],
        "exit status of the same command with space again": again,
        "its checkpoints": saved_steps(workdir),
        "its rows": len(rows(workdir)),
    }


def main():
    """Prints what happened, and fails where it is not what must be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=24)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder) / "disk"
        disk.mkdir()
        options = f"size={arguments.megabytes}m"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], check=True)
        try:
            figures = run_trial(Path(folder), disk)
        finally:
            subprocess.run(["umount", disk], check=True)
    for name, value in figures.items():
        print(f"{name}: {value}")
    assert figures["exit status"] == 1 and figures["saves that failed, and were logged"]
    assert figures["checkpoints at the end"] and figures["training reached its last step"]
    assert figures["exit status of the same command with space again"] == 0
    assert figures["its checkpoints"][-1] == STEPS and figures["its rows"] == STEPS


if __name__ == "__main__":
    main()
