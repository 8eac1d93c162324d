"""Published weights: found in a folder or on the hub, and named in one line when they are missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from rewards.suites.model import SuiteError
from samplers.loading import is_hub_id

#: What a transformers model needs: neither pickles nor weights of other frameworks.
MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.jinja")
#: The same without weights.
TOKENIZER_FILES = ("*.json", "*.txt", "*.jinja")


def pretrained(model: str | Path, what: str, option: str, files: Sequence[str] = MODEL_FILES) -> Path:
    """The folder of a model: itself, or the download of `owner/name` or `owner/name@revision`.

    Args:
        model: folder or hub id.
        what: what it is, for the error.
        option: the scorer's option that names it.
        files: patterns of the files to download.

    Raises:
        SuiteError: it is neither here nor to be had; says what to download where.
    """
    if not is_hub_id(model):
        if not Path(model).is_dir():
            raise SuiteError(
                f"{what}: folder {str(model)!r} does not exist; give another as option {option!r}"
            )
        return Path(model)
    name, _, revision = str(model).partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=list(files)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        pinned = f" --revision {revision}" if revision else ""
        raise SuiteError(
            f"{what}: {str(model)!r} is not in the hub's cache and cannot be downloaded ({type(error).__name__}); run "
            f"`hf download {name}{pinned}` where there is a network, or give a folder as option {option!r}"
        ) from error


def required(folder: Path, file: str, what: str) -> Path:
    """A file of a folder.

    Raises:
        SuiteError: it is not there.
    """
    if not (folder / file).is_file():
        raise SuiteError(
            f"{what}: {str(folder)!r} has no {file}; download the whole model again, or name another"
        )
    return folder / file


def origin(model: str | Path, folder: Path) -> Mapping[str, str]:
    """Which model it is, and which revision of it: the hub's commit, where there is one."""
    return {"model": str(model), "revision": folder.name} if is_hub_id(model) else {"model": str(model)}
