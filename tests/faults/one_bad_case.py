"""100 volumes, one of them damaged: 99 masks, 1 report, exit status 2, nothing half-written.

    python tests/faults/one_bad_case.py [--count=100] [--trials=3]

A tiny model is trained first. While `python -m lagseg_jax.predict` runs, the output folder is
watched: whatever has its final name must be a whole mask. Exit status 1 if anything is wrong.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

import tiny_run
from lagseg_jax.imaging.volume import read_volume
from lagseg_jax.runtime.errors import InputError

DAMAGES = ("cut", "flipped", "text", "nan", "cine")


def write_volumes(folder: Path, phantom: Path, count: int, chance: random.Random) -> Path:
    """Writes volumes with noise of their own, one of them damaged; returns the path of that one."""
    folder.mkdir()
    images = sorted(phantom.rglob("enhanced.nii.gz"))
    paths = [folder / f"patient_{number:03}.nii.gz" for number in range(count)]
    for number, path in enumerate(paths):
        image = nib.load(images[number % len(images)])
        noise = np.random.default_rng(number).integers(0, 9, image.shape)
        voxels = (np.asarray(image.dataobj) + noise).astype(np.int16)
        nib.save(nib.Nifti1Image(voxels, image.affine), path)
    bad = chance.choice(paths)
    damage(bad, chance.choice(DAMAGES))
    return bad


def damage(path: Path, kind: str) -> None:
    """Makes a volume unusable; some damages show only when all of it is unpacked."""
    content = bytearray(path.read_bytes())
    image = nib.load(path)
    voxels, affine = np.asarray(image.dataobj), image.affine
    if kind == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "flipped":
        content[len(content) // 2] ^= 255
        path.write_bytes(content)
    elif kind == "text":
        path.write_bytes(b"not a volume")
    elif kind == "nan":
        voxels = voxels.astype(np.float32)
        voxels[1, 2, 3] = np.nan
        nib.save(nib.Nifti1Image(voxels, affine), path)
    else:
        nib.save(nib.Nifti1Image(np.stack([voxels, voxels], axis=-1), affine), path)


def watch(process: subprocess.Popen, inputs: Path, output: Path) -> list[str]:
    """Looks at every mask as soon as it has its final name, until the run ends."""
    found, checked = [], set()
    while True:
        running = process.poll() is None
        for path in output.glob("[!.]*.nii.gz") if output.exists() else ():
            if path.name not in checked:
                checked.add(path.name)
                try:
                    mask = read_volume(path)
                    if mask.array.shape != read_volume(inputs / path.name).array.shape:
                        found.append(f"{path.name}: another shape than its input")
                except InputError as error:
                    found.append(f"under its final name, but not whole: {error}")
        if not running:
            return found
        time.sleep(0.002)


def aftermath(status: int, said: str, inputs: Path, output: Path, bad: Path) -> list[str]:
    """What the run left and said, against what it should have."""
    found = []
    reports = [line for line in said.splitlines() if " error: " in line]
    wanted = {path.name for path in inputs.iterdir()} - {bad.name}
    left = {path.name for path in output.iterdir() if path.name != "records"}
    if status != 2:
        found.append(f"exit status {status}, expected 2")
    if left != wanted:
        found.append(f"missing {sorted(wanted - left)}, unexpected {sorted(left - wanted)}")
    if len(reports) != 1 or str(bad) not in reports[0]:
        found.append(f"reported {reports}, expected {bad} alone")
    if f"1 of {len(wanted) + 1} inputs could not be used" not in said or "Traceback" in said:
        found.append(f"said {said[-500:]}")
    return found


def trial(workdir: Path, phantom: Path, folder: Path, count: int, chance: random.Random) -> list:
    """One run of `predict` over `count` volumes, one of them bad; returns what was wrong."""
    inputs, output = folder / "in", folder / "out"
    bad = write_volumes(inputs, phantom, count, chance)
    command = ["-m", "lagseg_jax.predict", "--workdir", workdir, "-i", inputs, "-o", output]
    with (folder / "stderr").open("w+") as stderr:
        process = subprocess.Popen([sys.executable, *map(str, command)], cwd=ROOT, stderr=stderr)
        found = watch(process, inputs, output)
        stderr.seek(0)
        return found + aftermath(process.returncode, stderr.read(), inputs, output, bad)


def main() -> int:
    """Runs the trials; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, wrong = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        phantom = tiny_run.write_phantom(folder)
        tiny_run.run(folder / "run", phantom)
        for number in range(options.trials):
            (folder / str(number)).mkdir()
            start = time.monotonic()
            found = trial(folder / "run", phantom, folder / str(number), options.count, chance)
            wrong += bool(found)
            print(f"trial {number}: {time.monotonic() - start:.0f} s, {found or 'as promised'}")
    print(
        f"{options.trials - wrong} of {options.trials} trials: {options.count - 1} masks written, "
        "1 input reported, exit status 2, nothing partial"
    )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
