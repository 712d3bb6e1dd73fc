"""Predicts files case after case; one is written while the next one is computed."""

import contextlib
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lagseg_jax.imaging.dicom_derived import Algorithm
from lagseg_jax.imaging.formats import Volume
from lagseg_jax.imaging.masks import check_grey
from lagseg_jax.imaging.slices import to_slices
from lagseg_jax.imaging.volume import remarks
from lagseg_jax.inference.files import Outputs, Prediction
from lagseg_jax.inference.inputs import Input
from lagseg_jax.inference.mask_statistics import mask_statistics, statistics_line, write_statistics
from lagseg_jax.inference.postprocess import PostProcessing
from lagseg_jax.inference.records import Record, rows_on_record, run_identity, warn_of_replaced
from lagseg_jax.inference.request import Request
from lagseg_jax.runs.workdir import read_config
from lagseg_jax.runtime.console import is_full, log, still
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.host import library_versions
from lagseg_jax.runtime.processes import allgather, process, share
from lagseg_jax.runtime.trace import stage

if TYPE_CHECKING:  # it loads jax, which a command does without until there is something to compute
    from lagseg_jax.inference.segmenter import Segmenter


class Predicted(NamedTuple):
    """`mask_statistics` of the cases with all outputs, and the cases for which a disk was full."""

    rows: dict[Input, dict[str, Any]]
    full: list[Input]


def predict_files(
    jobs: Mapping[Input, Outputs],
    folder: Path,
    request: Request,
    statistics: bool = False,
    resume: bool = False,
) -> tuple[int, int]:
    """Predicts this process' share of the cases.

    Args:
        jobs: where the files of each case go.
        folder: gets `statistics.csv` and `statistics.json` over all cases of all processes.
        request: how they are predicted.
        statistics: whether these two are written.
        resume: leave out the cases whose files are all there.

    Returns:
        How many cases of all processes have failed, and how many of these for want of space.

    Raises:
        InputError: a workdir is not a run, or its model cannot be loaded.
    """
    about = _about(request)
    # Shared first and filtered then: processes that start later would see other files.
    mine = todo = {one: jobs[one] for one in share(list(jobs))}
    if resume:
        todo = {one: out for one, out in mine.items() if not _is_done(one, out, about)}
        log.info("cases already there: %d, to do: %d", len(mine) - len(todo), len(todo))
    done = Predicted({}, [])
    if todo:
        warn_of_replaced([Record.of(folder, one.name) for one in todo], about["runs"])
        segmenter = _load(request)
        folder.mkdir(parents=True, exist_ok=True)
        done = predict_cases(segmenter, todo, request, about)
    parts = allgather([len(todo) - len(done.rows), len(done.full)])
    if statistics and process()[0] == 0:
        found = rows_on_record(folder)
        ordered = [one.name for one in jobs if one.name in found]
        ordered += [case for case in found if case not in set(ordered)]
        told = {name: getattr(request, name) for name in ("orientation", "plane", "allow")}
        told |= {"workdirs": request.workdirs, "encoder_weights": _encoder_weights(request)}
        if ordered:
            write_statistics(folder, [{"case": case, **found[case]} for case in ordered], told)
    failed, full = map(sum, zip(*parts))
    return failed, full


def _about(request: Request) -> dict[str, Any]:
    """What makes the masks, but for their inputs: the models and the options."""
    names = ("components", "min_mm3", "tta", "orientation", "plane", "allow")
    options = {name: getattr(request, name) for name in names}
    options["allow"] = sorted(request.allow)
    return {"runs": [run_identity(Path(w)) for w in request.workdirs], "options": options}


def _is_done(one: Input, outputs: Outputs, about: dict[str, Any]) -> bool:
    """Whether the files of a case are all there, made of this input by this model and options."""
    content = Record.of(outputs.mask.parent, one.name).content
    made_from = content.get("made_from") or {}
    same = json.loads(json.dumps(about))  # tuples as lists
    if not outputs.complete() or {k: made_from.get(k) for k in about} != same:
        return False
    try:
        return made_from.get("input") == one.content_hash()
    except OSError:
        return False


def predict_cases(
    segmenter: "Segmenter",
    jobs: Mapping[Input, Outputs],
    request: Request,
    about: dict[str, Any] | None = None,
) -> Predicted:
    """Predicts, writes, records and reports all cases, in their order; `about` is for the records.

    A case that fails keeps no outputs of an earlier call.
    """
    post = _postprocessing(segmenter, request)
    note = " - random encoder" if segmenter.encoder.warning else ""
    models = _models(request)
    predicted = Predicted({}, [])

    @stage("writing")
    def finish(label: str, one: Input, done: Prediction) -> None:
        outputs, row = jobs[one], _row(done.volume, done.mask)
        title = f"{one.name}: {row['volume_ml']:.1f} mL{note}"
        made_from = {**(about or {}), "input": done.input_hash}

        def write() -> dict[Path, OSError]:
            record = Record.of(outputs.mask.parent, one.name).begin(made_from, outputs.paths())
            failed = outputs.write(done, post.threshold, title, segmenter.plane, request.case_page)
            written = [path for path in outputs.paths() if path not in failed]
            record.finish(made_from, written, row | models)
            return failed

        written, problems = _tried(label, one, outputs, write)
        if any(map(is_full, problems)):
            predicted.full.append(one)
        if not problems:
            predicted.rows[one] = row
        if written:
            log.info("%s %s: %s", label, outputs.mask, statistics_line(row))

    with ThreadPoolExecutor(1) as writer:
        writing = writer.submit(lambda: None)
        for number, (one, outputs) in enumerate(jobs.items(), 1):
            label = f"{number}/{len(jobs)}"
            try:
                with stage("other volumes" if number > 1 else "first volume"):
                    prediction = predict_case(segmenter, one, outputs, post, request)
            except InputError as error:
                writing.result()  # the case before is reported before this one
                _refuse(label, one, outputs, error)
                continue
            writing.result()  # one case at a time waits for the disk: this bounds the memory
            writing = writer.submit(finish, label, one, prediction)
            del prediction  # it is the writer's now
        writing.result()
    return predicted


def _tried(
    label: str, one: Input, outputs: Outputs, write: Callable[[], dict[Path, OSError]]
) -> tuple[bool, list[Exception]]:
    """Writes the files of a case; whether its mask is there, and what could not be written."""
    try:
        failed = write()
    except (InputError, OSError) as error:
        what = f"{outputs.mask} cannot be written: " * isinstance(error, OSError)
        log.error("%s error: %s%s", label, what, error)
        _remove_older(one, outputs)
        return False, [error]
    for path, problem in failed.items():
        log.error("%s error: %s cannot be written: %s", label, path, problem.strerror)
    return True, list(failed.values())


def _models(request: Request) -> dict[str, str]:
    """What statistics say of the models."""
    workdirs = ", ".join(map(str, request.workdirs))
    return {"workdirs": workdirs, "encoder_weights": _encoder_weights(request)}


def _postprocessing(segmenter: "Segmenter", request: Request) -> PostProcessing:
    """Those of the run, with what the request changes."""
    post = replace(segmenter.postprocessing, min_mm3=request.min_mm3)
    return post if request.components is None else replace(post, components=request.components)


def predict_case(
    segmenter: "Segmenter", one: Input, outputs: Outputs, post: PostProcessing, request: Request
) -> Prediction:
    """Reads and predicts one case, with a probability where the outputs need it.

    Raises:
        InputError: the files cannot be used.
    """
    with still(f"predicting {one.name}"):
        try:
            input_hash = one.content_hash()
        except OSError as error:
            raise InputError(f"{one.source}: cannot be read ({error.strerror})") from None
        with stage("reading"):
            volume = one.read(request.max_bytes, request.orientation)
        check_grey(volume)
        for remark in remarks(volume):
            log.warning("%s: %s", one.source, remark)
        _, geometry = to_slices(volume.array, volume.affine, segmenter.plane)
        segmenter.check_plane(geometry, str(one.source))
        probability = None
        place = volume.array, volume.spacing, volume.affine
        if outputs.probability or outputs.mesh:
            probability = segmenter.predict_probability(*place, request.tta, post.smooth_mm)
            mask = segmenter.mask_of(probability, volume.affine, post)
        else:
            mask = segmenter.predict_volume(*place, request.tta, post)
    if not outputs.drawn:  # the grey values, the largest array, go; the shape stays
        volume = replace(volume, array=np.broadcast_to(np.uint8(0), mask.shape))
    done = Prediction(volume, mask, probability, input_hash, window=segmenter.config.data.window)
    if not outputs.dicom:
        return done
    runs = ",".join(run_identity(Path(workdir))["sha256"] for workdir in request.workdirs)
    return replace(
        done, stack=one.stack, algorithm=Algorithm(str(library_versions()["lagseg_jax"]), runs)
    )


def _refuse(label: str, one: Input, outputs: Outputs, error: InputError) -> None:
    named = "" if str(one.source) in str(error) else f"{one.source}: "
    log.error("%s error: %s%s", label, named, error)
    _remove_older(one, outputs)


def _remove_older(one: Input, outputs: Outputs) -> None:
    with contextlib.suppress(OSError):  # what cannot be removed has been reported
        Record.of(outputs.mask.parent, one.name).remove()


def _row(image: Volume, mask: np.ndarray) -> dict[str, Any]:
    """The numbers of a mask (x, y, z), with what is to be said about the geometry of its image."""
    row = mask_statistics(mask, image.affine)
    return row | {"remarks": "; ".join(filter(None, [*remarks(image), row["remarks"]]))}


def _load(request: Request) -> "Segmenter":
    """The model or the ensemble, with a word on what it costs."""
    with stage("import"):
        from lagseg_jax.inference.segmenter import load_segmenter

    segmenter = load_segmenter(request.workdirs, request.weights)
    if request.plane:
        segmenter = replace(segmenter, plane=request.plane)
        log.warning("--plane cuts all volumes into %s slices", request.plane)
    models, mirrorings = len(request.workdirs), 4 if request.tta else 1
    if models * mirrorings > 1:
        log.info(
            "%d models, %d mirrorings: %d times the computing of one prediction",
            *(models, mirrorings, models * mirrorings),
        )
    if request.tta and not all(m.config.augment.flip for m in (segmenter, *segmenter.partners)):
        log.warning(
            "--tta shows the model mirrored hearts, which its training never did "
            "(config.augment.flip is 0); it cost 9 points of Dice: compare both on labelled cases"
        )
    return segmenter


def _encoder_weights(request: Request) -> str:
    """Where the encoders of the runs come from; needs no jax."""
    origins = []
    for number, workdir in enumerate(request.workdirs):
        encoder, moved = read_config(Path(workdir)).encoder, request.weights
        weights = moved[min(number, len(moved) - 1)] if moved else encoder.weights
        origins.append(weights or f"random (seed {encoder.seed})")
    return ", ".join(origins)
