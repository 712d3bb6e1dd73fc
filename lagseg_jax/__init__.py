"""Left atrium segmentation in cardiac MRI with a frozen DINOv2 encoder (arXiv 2502.06615).

`python -m lagseg_jax` lists the commands. Subpackages, each of which imports only those before it:

    runtime     errors, console, files, signals, processes, devices
    imaging     volumes: read, cut into slices, drawn, meshed, written
    config      what a config may say
    runs        what a run keeps in its workdir
    data        datasets -> cases -> split -> prepared slices -> batches
    model       frozen encoder -> fusion weights -> decoder
    training    the loop, one step, losses, metrics
    inference   volume -> mask, surface, numbers, files
    evaluation  masks against references; studies
    reports     pages, tables and plots

docs/architecture.md has the data flow with shapes.
"""

import atexit
import gc
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lagseg_jax.inference.load_segmenter import load_segmenter
    from lagseg_jax.model.pretrained_encoder import load_encoder

__all__ = ["load_encoder", "load_segmenter"]


def __getattr__(name: str) -> Any:
    # Late, so that `import lagseg_jax` and the command line's error messages need no jax.
    if name == "load_encoder":
        from lagseg_jax.model.pretrained_encoder import load_encoder

        return load_encoder
    if name == "load_segmenter":
        from lagseg_jax.inference.load_segmenter import load_segmenter

        return load_segmenter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _refuse_to_run_library_modules() -> None:
    """Ends `python -m lagseg_jax.training.loop`, which would do nothing and look like success.

    While Python looks for the module after -m, it imports this package with "-m" as `sys.argv[0]`.
    """
    if sys.argv[:1] != ["-m"]:
        return
    # The last of what stands before the module's own arguments: `MODULE`, or `-mMODULE`.
    name = sys.orig_argv[len(sys.orig_argv) - len(sys.argv)].rpartition("-m")[2]
    package, _, rest = name.partition(".")
    part = rest.partition(".")[0]
    if package == __name__ and part and os.path.isdir(os.path.join(__path__[0], part)):
        print(
            f"error: {name} is a part of the library and no command, expected one of those that "
            "python -m lagseg_jax lists",
            file=sys.stderr,
        )
        sys.exit(2)


def _leave_the_cores_to_our_threads() -> None:
    """Stops NumPy's library of matrix products from starting threads of its own, in commands.

    Volumes are prepared in a thread for each core. A further one for each core in each product
    waits for the others without sleeping: preparing took nine times the CPU time. It is read when
    NumPy is loaded, so it stands here; a program that only imports this package stays as it is.
    """
    if _runs_a_command():
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _collect_seldom() -> None:
    """Stops Python from looking through all objects again and again, in commands.

    It looks for cycles nobody needs after 700 new objects, and jax and what it needs bring a
    million that stay; and once more at the end, when the process goes with all of them. That took
    0.6 of a prediction's 7 seconds (docs/log/2026-11-28-start.md).
    """
    if _runs_a_command():
        gc.set_threshold(50_000)
        atexit.register(gc.freeze)


def _runs_a_command() -> bool:
    """Whether this package is imported to be run, by `python -m` or as `lagseg`."""
    return sys.argv[:1] == ["-m"] or os.path.basename(sys.argv[0]) == "lagseg"


_refuse_to_run_library_modules()
_leave_the_cores_to_our_threads()
_collect_seldom()
