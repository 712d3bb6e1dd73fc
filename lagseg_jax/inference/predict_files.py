"""Predicts this process' share of the cases with the models of some runs, and tells of all."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lagseg_jax.inference.cases import Predicted, predict_cases
from lagseg_jax.inference.estimator import Estimator
from lagseg_jax.inference.files import Outputs
from lagseg_jax.inference.inputs import Input
from lagseg_jax.inference.mask_statistics import write_statistics
from lagseg_jax.inference.records import Record, rows_on_record, run_identity, warn_of_replaced
from lagseg_jax.inference.request import Request
from lagseg_jax.inference.uncertainty import UNLIKE, Uncertainty
from lagseg_jax.inference.uncertainty_record import read_uncertainty, record_path
from lagseg_jax.runs.workdir import read_config
from lagseg_jax.runtime.console import log
from lagseg_jax.runtime.processes import allgather, process, share
from lagseg_jax.runtime.trace import stage

if TYPE_CHECKING:  # it loads jax, which a command does without until there is something to compute
    from lagseg_jax.inference.segmenter import Segmenter


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
        needed = [UNLIKE] if _uncertainty(request) else []
        todo = {one: out for one, out in mine.items() if not _is_done(one, out, about, needed)}
        log.info("cases already there: %d, to do: %d", len(mine) - len(todo), len(todo))
    done = Predicted({}, [])
    if todo:
        warn_of_replaced([Record.of(folder, one.name) for one in todo], about["runs"])
        segmenter = _load(request)
        folder.mkdir(parents=True, exist_ok=True)
        done = predict_cases(segmenter, todo, request, about, _models(request))
    parts = allgather([len(todo) - len(done.rows), len(done.full)])
    if statistics and process()[0] == 0:
        found = rows_on_record(folder)
        ordered = [one.name for one in jobs if one.name in found]
        ordered += [case for case in found if case not in set(ordered)]
        told = {name: getattr(request.reading, name) for name in ("orientation", "plane", "allow")}
        told |= {"workdirs": request.workdirs, "encoder_weights": _encoder_weights(request)}
        if known := _uncertainty(request):
            told["uncertainty"] = asdict(known)
        if ordered:
            write_statistics(folder, [{"case": case, **found[case]} for case in ordered], told)
    failed, full = map(sum, zip(*parts))
    return failed, full


def _about(request: Request) -> dict[str, Any]:
    """What makes the masks, but for their inputs: the models and the options."""
    options = {name: getattr(request, name) for name in ("components", "min_mm3", "tta")}
    options |= {name: getattr(request.reading, name) for name in ("orientation", "plane")}
    options["allow"] = sorted(request.reading.allow)
    return {"runs": [run_identity(Path(w)) for w in request.workdirs], "options": options}


def _uncertainty(request: Request) -> Uncertainty | None:
    """What was measured of estimates with these models and options, where they are wanted."""
    if not request.estimate or _measured_otherwise(request):
        return None
    return read_uncertainty(record_path(request.workdirs, request.tta))


def _measured_otherwise(request: Request) -> str:
    """The option that estimates were measured with, where another is asked for; else ""."""
    own = read_config(Path(request.workdirs[0])).predict.components
    return "" if request.components in (None, own) else f"--keep_components={own}"


def _is_done(
    one: Input, outputs: Outputs, about: dict[str, Any], columns: Sequence[str] = ()
) -> bool:
    """Whether the files of a case are all there, made of this input by this model and options.

    And whether its statistics have these columns.
    """
    content = Record.of(outputs.mask.parent, one.name).content
    if any(content.get("row", {}).get(name) is None for name in columns):
        return False
    made_from = content.get("made_from") or {}
    same = json.loads(json.dumps(about))  # tuples as lists
    if not outputs.complete() or {k: made_from.get(k) for k in about} != same:
        return False
    try:
        return made_from.get("input") == one.content_hash()
    except OSError:
        return False


def _load(request: Request) -> "Segmenter":
    """The model or the ensemble, with a word on what it costs."""
    with stage("import"):
        from lagseg_jax.inference.load_segmenter import load_segmenter

    segmenter = load_segmenter(request.workdirs, request.weights)
    plane = request.reading.plane
    if request.estimate and (measured_with := _measured_otherwise(request)):
        log.warning("no estimates of Dice and volume: they were measured with %s", measured_with)
    elif request.estimate:
        about = segmenter.step, segmenter.config.data, plane or segmenter.plane
        estimator = Estimator.of(request.workdirs, request.tta, *about)
        segmenter = replace(segmenter, estimator=estimator)
    if plane:
        segmenter = segmenter.in_any_plane(plane)
        log.warning("--plane cuts all volumes into %s slices", plane)
    models, mirrorings = len(request.workdirs), 4 if request.tta else 1
    if models * mirrorings > 1:
        log.info(
            "%d models, %d mirrorings: %d times the computing of one prediction",
            *(models, mirrorings, models * mirrorings),
        )
    if request.tta:
        log.warning(
            "--tta shows the model mirrored hearts, which training never does; it cost 9 "
            "points of Dice with configs/cpu.py: compare both on labelled cases first"
        )
    return segmenter


def _models(request: Request) -> dict[str, str]:
    """What statistics say of the models."""
    workdirs = ", ".join(map(str, request.workdirs))
    return {"workdirs": workdirs, "encoder_weights": _encoder_weights(request)}


def _encoder_weights(request: Request) -> str:
    """Where the encoders of the runs come from; needs no jax."""
    origins = []
    for number, workdir in enumerate(request.workdirs):
        encoder, moved = read_config(Path(workdir)).encoder, request.weights
        weights = moved[min(number, len(moved) - 1)] if moved else encoder.weights
        origins.append(weights or f"random (seed {encoder.seed})")
    return ", ".join(origins)
