"""Predicts case after case: the next ones are read, and those before written, beside the devices.

The devices are asked by the calling thread alone, so that a signal stops them between two batches.
At most `AHEAD` cases are read ahead and `AHEAD` wait for the disk, which bounds the memory.
"""

import contextlib
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lagseg_jax.imaging.dicom_derived import Algorithm
from lagseg_jax.imaging.formats import Volume
from lagseg_jax.imaging.masks import check_grey
from lagseg_jax.inference.estimated_mask import estimates_of
from lagseg_jax.inference.files import Outputs, Prediction
from lagseg_jax.inference.given import as_volume
from lagseg_jax.inference.inputs import Input
from lagseg_jax.inference.mask_statistics import mask_statistics, statistics_line
from lagseg_jax.inference.postprocess import PostProcessing
from lagseg_jax.inference.records import Record, run_identity
from lagseg_jax.inference.request import Request
from lagseg_jax.runtime.console import is_full, log, still
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.host import library_versions
from lagseg_jax.runtime.trace import stage

if TYPE_CHECKING:  # they load jax, which a command does without until there is something to compute
    from lagseg_jax.inference.segmenter import Segmenter
    from lagseg_jax.inference.slice_probability import Cut

AHEAD = 2


class Predicted(NamedTuple):
    """`mask_statistics` of the cases with all outputs, and the cases for which a disk was full."""

    rows: dict[Input, dict[str, Any]]
    full: list[Input]


class _Read(NamedTuple):
    """A case before it is computed."""

    volume: Volume
    input_hash: str
    cut: "Cut"


class _Computed(NamedTuple):
    """A case before it is written; the grey values are gone where nothing needs them."""

    volume: Volume
    input_hash: str
    array: np.ndarray  # (x, y, z), of `Segmenter.compute`


@dataclass(frozen=True)
class _Work:
    """What is done to each case, by threads of its own but for `compute`."""

    segmenter: "Segmenter"
    jobs: Mapping[Input, Outputs]
    request: Request
    about: dict[str, Any]
    models: dict[str, str]
    post: PostProcessing
    predicted: Predicted

    @stage("reading")
    def read(self, one: Input) -> _Read:
        """Reads a case. Raises InputError for what cannot be used."""
        try:
            input_hash = one.content_hash()
        except OSError as error:
            raise InputError(f"{one.source}: cannot be read ({error.strerror})") from None
        volume = one.read(self.request.reading)
        given = as_volume(volume)
        check_grey(given)
        cut = self.segmenter.cut(given.array, given.affine, str(one.source))
        return _Read(volume, input_hash, cut)

    def compute(self, one: Input, read: _Read) -> _Computed:
        """What the devices make of a case: the probability, where the outputs need it."""
        outputs, volume = self.jobs[one], read.volume
        post = None if outputs.probability or outputs.mesh else self.post
        estimated = self.segmenter.estimator is not None
        array = self.segmenter.compute(read.cut, self.request.tta, post, estimated)
        if not (outputs.drawn or estimated):  # the largest array goes, its shape stays
            volume = replace(volume, array=np.broadcast_to(np.uint8(0), array.shape))
        return _Computed(volume, read.input_hash, array)

    @stage("writing")
    def write(self, label: str, one: Input, computed: _Computed) -> None:
        """Writes, records and reports a case."""
        outputs, volume = self.jobs[one], computed.volume
        said = self.segmenter.remarks(volume)
        for remark in said:
            log.warning("%s: %s", one.source, remark)
        mask, probability = self.segmenter.finish(computed.array, volume.affine, self.post)
        done = self._prediction(one, computed, mask, probability)
        row = mask_statistics(mask, volume.affine, done.estimates)
        read = one.stack.remarks if one.stack else []  # they were logged when it was read
        row["remarks"] = "; ".join(filter(None, [*read, *said, row["remarks"]]))
        if outputs.dicom:
            done = replace(done, stack=one.stack, algorithm=self._algorithm(row["remarks"]))
        try:
            failed = self._write_files(outputs, done, row, one)
        except (InputError, OSError) as error:
            what = f"{outputs.mask} cannot be written: " * isinstance(error, OSError)
            log.error("%s error: %s%s", label, what, error)
            _remove_older(one, outputs)
            if is_full(error):
                self.predicted.full.append(one)
            return
        for path, problem in failed.items():
            reason = getattr(problem, "strerror", problem)
            log.error("%s error: %s cannot be written: %s", label, path, reason)
        if any(map(is_full, failed.values())):
            self.predicted.full.append(one)
        if not failed:
            self.predicted.rows[one] = row
        log.info("%s %s: %s", label, outputs.mask, statistics_line(row))

    def _prediction(
        self, one: Input, computed: _Computed, mask: np.ndarray, probability: np.ndarray | None
    ) -> Prediction:
        window, outputs = self.segmenter.config.data.window, self.jobs[one]
        shown = probability if outputs.probability or outputs.mesh else None
        done = Prediction(computed.volume, mask, shown, computed.input_hash, window=window)
        if probability is not None:
            place = computed.volume.array, computed.volume.affine
            estimates = estimates_of(self.segmenter, *place, mask, probability, self.post)
            done = replace(done, estimates=estimates)
        return done

    def _algorithm(self, remarks: str) -> Algorithm:
        """What made a mask, as it is said where nothing else of us is seen."""
        runs = ",".join(run_identity(Path(workdir))["sha256"] for workdir in self.request.workdirs)
        random = "the encoder is random" * bool(self.segmenter.encoder.warning)
        remarks = "; ".join(filter(None, [random, remarks]))
        return Algorithm(str(library_versions()["lagseg_jax"]), runs, remarks)

    def _write_files(
        self, outputs: Outputs, done: Prediction, row: dict[str, Any], one: Input
    ) -> dict[Path, OSError | InputError]:
        made_from = {**self.about, "input": done.input_hash}
        note = " - random encoder" if self.segmenter.encoder.warning else ""
        title = f"{one.name}: {row['volume_ml']:.1f} mL{note}"
        record = Record.of(outputs.mask.parent, one.name).begin(made_from, outputs.paths())
        how = self.post.threshold, title, self.segmenter.plane, self.request.case_page
        failed = outputs.write(done, *how)
        written = [path for path in outputs.paths() if path not in failed]
        record.finish(made_from, written, row | self.models)
        return failed

    def refuse(self, label: str, one: Input, error: InputError) -> None:
        """Reports a case that cannot be used; it keeps no outputs of an earlier call."""
        named = "" if str(one.source) in str(error) else f"{one.source}: "
        log.error("%s error: %s%s", label, named, error)
        _remove_older(one, self.jobs[one])


def predict_cases(
    segmenter: "Segmenter",
    jobs: Mapping[Input, Outputs],
    request: Request,
    about: dict[str, Any] | None = None,
    models: dict[str, str] | None = None,
) -> Predicted:
    """Predicts, writes, records and reports all cases, in their order.

    A case that fails keeps no outputs of an earlier call.

    Args:
        segmenter: the model.
        jobs: where the files of each case go.
        request: how they are predicted.
        about: what makes the masks, for the records.
        models: what statistics say of the models.
    """
    post = replace(segmenter.postprocessing, min_mm3=request.min_mm3)
    if request.components is not None:
        post = replace(post, components=request.components)
    work = _Work(segmenter, jobs, request, about or {}, models or {}, post, Predicted({}, []))
    waiting: deque[Future] = deque()
    with ThreadPoolExecutor(AHEAD) as readers, ThreadPoolExecutor(1) as writer:
        for number, (one, reading) in enumerate(_ahead(readers, work), 1):
            label = f"{number}/{len(jobs)}"
            try:
                with still(f"predicting {one.name}"):
                    with stage("reading"):
                        read = reading.result()
                    del reading
                    with stage("other volumes" if number > 1 else "first volume"):
                        computed = work.compute(one, read)
                waiting.append(writer.submit(work.write, label, one, computed))
                del read, computed  # they are the writer's now
            except InputError as error:
                waiting.append(writer.submit(work.refuse, label, one, error))
            with stage("writing"):
                while len(waiting) > AHEAD:
                    waiting.popleft().result()
        with stage("writing"):
            for writing in waiting:
                writing.result()
    return work.predicted


def _ahead(readers: ThreadPoolExecutor, work: _Work) -> Iterator[tuple[Input, Future]]:
    """Each case and its reading, when that of the `AHEAD` cases after it has been started."""
    started: deque[tuple[Input, Future]] = deque()
    for one in work.jobs:
        started.append((one, readers.submit(work.read, one)))
        if len(started) > AHEAD:
            yield started.popleft()
    while started:
        yield started.popleft()


def _remove_older(one: Input, outputs: Outputs) -> None:
    with contextlib.suppress(OSError):  # what cannot be removed has been reported
        Record.of(outputs.mask.parent, one.name).remove()
