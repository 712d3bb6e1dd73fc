"""Mutated NIfTI and NRRD headers and gzip streams against the reader, with a cap on memory.

    python tests/faults/fuzz_volumes.py [--count=5000] [--seed=0]

Every file must give a valid volume, or one sentence that names it (InputError): no other exception,
no crash, nothing over 5 seconds, no allocation above the cap. The reader runs in a child process;
what would kill it, or hang, is seen from here. Prints the counts; exit status 1 if one is not 0.
"""

import argparse
import collections
import gzip
import io
import multiprocessing
import resource
import sys
import tempfile
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
from lagseg_jax.imaging.labels import read_label
from lagseg_jax.imaging.reading import Reading
from lagseg_jax.imaging.volume import read_volume
from lagseg_jax.runtime.errors import InputError

SHAPE = (7, 11, 5)
CAP = 2**24  # bytes of voxels; mutated sizes are on both sides of it
SLACK = 2**22  # the header, the read buffers, the parser
ADDRESS_SPACE = 2**30  # on top of what the child needs to start: a real allocation beyond fails
SECONDS = 5.0
BOMB = gzip.compress(bytes(2**26), compresslevel=1)  # 64 MiB of zeros in 300 kB
# Numbers at which parsers break.
NUMBERS = (0, 1, -1, 2, 3, 4, 7, 127, 128, 255, 32767, -32768, 65535, 2**31 - 1, 2**31, 2**63)
FLOATS = (0.0, -1.0, 1e-40, 1e38, -1e38, np.nan, np.inf, -np.inf, 352.5)
WORDS = ("", "0", "-1", "1e9", "nan", "none", "(1,0,0)", "(nan,nan,nan)", "99999999999999999999")
WORDS += ("mm mm mm", "parsec", "left-posterior-superior", "scanner-xyz")
WORDS += ("3 3 3", "(0,0,0) (0,0,0) (0,0,0)", "gzip", "bzip2", "ascii", "hex", "../secret", "LIST")
WORDS += (
    "/etc/passwd",
    "block",
    "float",
    "double",
    "int64",
    "uchar",
    "\udcff",
    "a" * 5000,
    "%d 1 9 1",
)
FIELDS = ("type", "dimension", "sizes", "encoding", "endian", "space", "space directions", "kinds")
FIELDS += ("space units", "units")
FIELDS += ("space origin", "spacings", "data file", "datafile", "line skip", "byte skip", "content")


def seeds() -> dict[str, bytes]:
    """Small intact files, unpacked: {suffix: content}."""
    rng, files = np.random.default_rng(0), {}
    affine = np.array([[-1.5, 0.1, 0, 3], [0.1, -1.5, 0, 5], [0, 0, 2.5, 7], [0, 0, 0, 1.0]])
    for dtype in ("u1", "i2", ">i2", "f4", "f8"):
        voxels = rng.integers(0, 100, SHAPE).astype(dtype)
        for number, kind in enumerate((nib.Nifti1Image, nib.Nifti2Image), 1):
            header = kind.header_class(endianness=">" if dtype[0] == ">" else "<")
            header.set_data_dtype(np.dtype(dtype))
            image = kind(voxels, affine, header)
            files[f"nifti{number}_{dtype}.nii"] = image.to_bytes()
        for encoding in ("raw", "gzip", "bzip2", "ascii"):
            stream = io.BytesIO()
            header = {"space": "left-posterior-superior", "encoding": encoding}
            header |= {"space directions": affine[:3, :3], "space origin": affine[:3, 3]}
            nrrd.write(stream, voxels, header)
            files[f"{encoding}_{dtype}.nrrd"] = stream.getvalue()
    return files


def _pick(rng: np.random.Generator, options: Sequence):
    return options[rng.integers(len(options))]


def mutated(rng: np.random.Generator, files: dict[str, bytes]) -> tuple[str, bytes]:
    """One mutated file: its suffix and content."""
    name = _pick(rng, sorted(files))
    content = bytearray(files[name])
    for _ in range(rng.integers(1, 4)):
        kind = _pick(rng, ["bytes", "field", "field", "field", "cut", "insert", "repeat"])
        at = int(rng.integers(min(len(content), 400) or 1))
        if kind == "bytes":
            for _ in range(rng.integers(1, 9)):
                content[int(rng.integers(len(content)))] = rng.integers(256)
        elif kind == "cut":
            del content[int(rng.integers(len(content))) :]
        elif kind == "insert":
            content[at:at] = rng.bytes(int(rng.integers(1, 30)))
        elif kind == "repeat":
            content += content[at:] * int(rng.integers(1, 20))
        elif name.endswith(".nrrd"):
            content = _nrrd_field(rng, content)
        else:
            _nifti_field(rng, content)
        if not content:
            break
    if name.endswith(".nrrd"):
        bomb = name.startswith("gzip") and rng.random() < 0.1
        return ".nrrd", bytes(content) + BOMB * bomb
    if rng.random() < 0.5:
        return ".nii", bytes(content)
    packed = bytearray(gzip.compress(bytes(content), compresslevel=int(rng.integers(10))))
    shape = rng.choice(["whole", "bytes", "cut", "twice", "bomb", "tail"], p=[0.4] + [0.12] * 5)
    if shape == "bytes":
        for _ in range(rng.integers(1, 5)):
            packed[int(rng.integers(len(packed)))] = rng.integers(256)
    elif shape == "cut":
        del packed[int(rng.integers(len(packed))) :]
    elif shape == "twice":
        packed = packed + packed
    elif shape == "bomb":
        packed += BOMB
    elif shape == "tail":
        packed += rng.bytes(50)
    return ".nii.gz", bytes(packed)


def _nifti_field(rng: np.random.Generator, content: bytearray) -> None:
    """Overwrites a field of the header with a number that parsers stumble on."""
    version_2 = len(content) > 4 and 540 in (
        int.from_bytes(content[:4], order) for order in ("little", "big")
    )
    dtype = (nib.Nifti2Header if version_2 else nib.Nifti1Header).template_dtype
    fields = ("dim", "pixdim", "datatype", "bitpix", "vox_offset", "scl_slope", "scl_inter")
    fields += ("magic", "sizeof_hdr", "qform_code", "sform_code", "srow_x", "quatern_b")
    fields += ("dim", "vox_offset", "xyzt_units", "srow_y", "quatern_d", "qoffset_x")
    field = _pick(rng, fields)
    kind, offset = dtype.fields[field][:2]
    kind, count = kind.base, int(np.prod(kind.shape, dtype=int))
    offset += int(rng.integers(count)) * kind.itemsize
    if kind.kind == "S":
        value = rng.bytes(kind.itemsize)
    elif kind.kind == "f":
        value = np.array(_pick(rng, [*FLOATS, *map(float, NUMBERS)]), kind).tobytes()
    else:
        value = _pick(rng, [n for n in NUMBERS if abs(n) < 2 ** (8 * kind.itemsize - 1)])
        value = value.to_bytes(kind.itemsize, _pick(rng, ["little", "big"]), signed=True)
    content[offset : offset + len(value)] = value


def _nrrd_field(rng: np.random.Generator, content: bytearray) -> bytearray:
    """Changes, doubles, drops or adds a line of the header."""
    head, separator, data = bytes(content).partition(b"\n\n")
    lines = head.split(b"\n")
    at = int(rng.integers(len(lines)))
    number = str(_pick(rng, NUMBERS))
    value = _pick(rng, [*WORDS, number, f"{number} 7 9", f"{number} {number} {number}"])
    line = f"{_pick(rng, FIELDS)}: {value}".encode("utf-8", "surrogateescape")
    action = _pick(rng, ["change", "double", "drop", "add", "add"])
    if action == "change":
        lines[at] = lines[at].partition(b":")[0] + b": " + line.partition(b": ")[2]
    elif action == "double":
        lines.insert(at, lines[at])
    elif action == "drop":
        del lines[at]
    else:
        lines.insert(at, line)
    return bytearray(b"\n".join(lines) + separator + data)


def attempt(path: Path, cap: int = CAP) -> tuple[str, int]:
    """Reads a file as image and as label: "volume", "refused" or what went wrong; peak bytes."""
    outcome = "volume"
    tracemalloc.start()
    try:
        volume = read_volume(path, Reading(cap))
        whole = volume.array.ndim == 3 and volume.array.nbytes <= cap
        if not whole or not np.isfinite(volume.array).all() or not np.isfinite(volume.affine).all():
            outcome = f"invalid volume {volume.array.shape}"
    except InputError as error:
        outcome = "refused"
        if "\n" in str(error) or str(path) not in str(error) or not str(error).endswith("."):
            outcome = f"not one sentence that names the file: {error}"
    except BaseException as error:
        outcome = f"{type(error).__name__}: {error}"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    if outcome == "volume":
        try:
            read_label(path, reading=Reading(cap))
        except InputError:
            pass
        except BaseException as error:
            outcome = f"as a label: {type(error).__name__}: {error}"
    return outcome, peak


def campaign(count: int, seed: int, folder: Path) -> Iterator[tuple[str, bytes, str, int, float]]:
    """Yields suffix, content, outcome, peak bytes and seconds of every mutation."""
    rng, files = np.random.default_rng(seed), seeds()
    for number in range(count):
        suffix, content = mutated(rng, files)
        path = folder / f"mutation {number}{suffix}"
        path.write_bytes(content)
        start = time.monotonic()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            outcome, peak = attempt(path)
        if said:
            outcome = f"said more than its sentence: {said[0].message}"
        yield suffix, content, outcome, peak, time.monotonic() - start
        path.unlink()


def _child(campaign: Callable, count: int, seed: int, connection) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESS_SPACE,) * 2)
    with tempfile.TemporaryDirectory() as folder:
        for result in campaign(count, seed, Path(folder)):
            connection.send(result)
    connection.send(None)


def main(campaign: Callable = campaign) -> int:
    """Runs a campaign; returns the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(
        target=_child, args=(campaign, options.count, options.seed, sender)
    )
    start = time.monotonic()
    child.start()
    sender.close()
    outcomes, bad = collections.Counter(), []
    kinds, slowest, largest, done, hung = collections.Counter(), 0.0, 0, 0, False
    while True:
        if not receiver.poll(60):  # the child does nothing any more
            hung = True
            child.kill()
            break
        try:
            result = receiver.recv()
        except EOFError:  # the child died
            break
        if result is None:
            break
        suffix, _, outcome, peak, seconds = result
        done += 1
        kinds[suffix] += 1
        good = outcome in ("volume", "refused")
        outcomes[outcome if good else "other"] += 1
        if not good:
            bad.append(f"{suffix}: {outcome}")
        slowest, largest = max(slowest, seconds), max(largest, peak)
        outcomes["slow"] += seconds > SECONDS
        outcomes["above the cap"] += peak > CAP + SLACK
    child.join()
    crashes = int(done < options.count and not hung)
    for line in bad[:20]:
        print(line)
    print(f"{done} mutations in {time.monotonic() - start:.0f} s: {dict(kinds)}")
    print(f"  valid volumes          {outcomes['volume']}")
    print(f"  refused, one sentence  {outcomes['refused']}")
    print(f"  other outcomes         {outcomes['other']}")
    print(f"  crashes                {crashes} (child's exit status {child.exitcode})")
    print(f"  over {SECONDS:g} s               {outcomes['slow'] + hung} (slowest {slowest:.2f} s)")
    print(
        f"  above the cap          {outcomes['above the cap']} (largest {largest / 2**20:.1f} MiB, "
        f"cap {CAP / 2**20:.0f} MiB + {SLACK / 2**20:.0f})"
    )
    failures = ("other", "slow", "above the cap")
    return int(crashes or hung or done < options.count or any(outcomes[f] for f in failures))


if __name__ == "__main__":
    sys.exit(main())
