"""Fetches a published model from the Hugging Face hub; nothing else here ever uses a network.

`huggingface_hub` does it, with its own environment variables: HF_TOKEN, HF_ENDPOINT (a mirror),
HF_HOME or HF_HUB_CACHE (where files are kept), HF_HUB_OFFLINE (only what is kept there).
"""

import errno
import logging
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path

from lagseg_jax.runtime.console import FULL, still
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.extras import install_command
from lagseg_jax.runtime.files import file_sha256
from weight_conversion.read import FOLDER_FILES, one_line, shards_of

log = logging.getLogger("lagseg_jax")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*")
_FILE_ENDINGS = (".bin", ".ckpt", ".json", ".pt", ".pth", ".safetensors", ".tar", ".zip")

Get = Callable[[str, str | None], Path]  # file and revision -> where it is kept


def is_hub_name(source: str) -> bool:
    """Whether a source is a model of the hub: a name with one slash that is no path here.

    What ends like a file is one that is missing, and nobody is asked for it.
    """
    if not _NAME.fullmatch(source) or source.endswith(_FILE_ENDINGS):
        return False
    if os.path.exists(source):
        log.info("%s is read from here; the hub is not asked for a model of that name", source)
    return not os.path.lexists(source)


def fetch(name: str, revision: str | None = None) -> Path:
    """Fetches config.json and the weights of a model, as far as they are not kept already.

    Args:
        name: of the model, such as "facebook/dinov2-giant".
        revision: branch, tag or commit; None is the main branch.

    Returns:
        The folder that holds them in the library's cache; its name is the commit.

    Raises:
        InputError: one sentence on what is missing, not allowed, cut off or damaged.
        OSError: the disk is full.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise InputError(
            f"{name} is neither a file nor a folder here, and as a model of the Hugging Face hub "
            f"it needs huggingface_hub, which is not installed: {install_command('hub')}."
        ) from None

    if "HF_HUB_VERBOSITY" not in os.environ:  # what goes wrong is said once, in one sentence
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)

    def get(file: str, revision: str | None) -> Path:
        return Path(huggingface_hub.hf_hub_download(name, file, revision=revision))

    try:
        with still(f"fetching {name}"), warnings.catch_warnings(action="ignore"):
            warnings.filterwarnings("error", "Not enough free disk space", UserWarning)
            folder = get("config.json", revision).parent
            log.info("%s: commit %s, kept in %s", name, folder.name, folder)
            files = _weights(get, folder.name)
    except InputError:
        raise
    except UserWarning:
        place = huggingface_hub.constants.HF_HUB_CACHE
        sentence = f"no space left for {name}; HF_HOME names another place to keep it"
        raise OSError(errno.ENOSPC, sentence, place) from None
    except Exception as error:  # whatever the library and what it is built on raise
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        raise InputError(f"{name} {_reason(error, revision)}.") from None
    for file in files:
        _check(file)
    return folder


def _weights(get: Get, commit: str) -> list[Path]:
    """The first kind of weights that the model has, all of their files."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    absent: list[EntryNotFoundError] = []
    for name in FOLDER_FILES:
        try:
            path = get(name, commit)
        except EntryNotFoundError as error:
            absent.append(error)
            continue
        shards = shards_of(path) if path.suffix == ".json" else {}
        return [path, *(get(shard, commit) for shard in sorted(set(shards.values())))]
    # Without a connection, no file says that the model lacks it.
    raise next((e for e in absent if isinstance(e, LocalEntryNotFoundError)), absent[0])


def _reason(error: Exception, revision: str | None) -> str:
    """What went wrong and what can be done, as the rest of a sentence about the model."""
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    if isinstance(error, errors.HFValidationError):
        return "is neither a file nor a folder here, nor a name that a model of the hub can have"
    if isinstance(error, errors.GatedRepoError):
        return f"is given by {hub} only to those who accepted its terms there; set HF_TOKEN then"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.RepositoryNotFoundError) or status == 401:
        return (
            f"is neither a file nor a folder here, nor a model on {hub} that you may read (status "
            f"{status}); expected one such as facebook/dinov2-base, or a valid HF_TOKEN for a "
            "private one"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"has no revision {revision} on {hub}, expected a branch, a tag or a commit"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        file = error.response.url.path.rpartition("/")[2]
        return f"lacks the file {file} on {hub}, expected config.json and all files of its weights"
    if isinstance(error, errors.LocalEntryNotFoundError):
        if constants.HF_HUB_OFFLINE:
            return (
                f"is not, or not whole, in {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE forbids "
                "to fetch it; fetch it once without that variable"
            )
        cause = one_line(error.__cause__ or error)
        return f"cannot be fetched, as {hub} does not answer ({cause}); try again later"
    return f"was not fetched whole from {hub} ({one_line(error)}); start the same command again"


def _check(path: Path) -> None:
    """Raises InputError for a file that is not the one the hub announced.

    The library links a large file to what is named by its SHA-256, but compares only its size.
    """
    if not path.is_symlink():  # a file system without links
        return
    # This link alone: what it leads to may itself be a link, to a store with names of another kind.
    expected = path.readlink().name
    if re.fullmatch(r"[0-9a-f]{64}", expected) and (found := file_sha256(path)) != expected:
        raise InputError(
            f"{path.resolve()} ({path.name}) is damaged: SHA-256 {found} found, {expected} "
            "expected; delete it, and start the same command again."
        )
