"""``RUN/model``: config and tokenizer of what is trained, from which ``clpds convert`` makes a model's folder."""

import copy
import os
import shutil
from pathlib import Path

from clpds import manifest
from clpds.checkpoint import Checkpoint
from clpds.checkpoint.anatomy import model_class
from clpds.checkpoint.open import open_without_weights
from clpds.errors import UserError
from clpds.manifest import check_manifest, hash_files, write_manifest, written_names
from clpds.output import replace_folder
from clpds.run_folder import MODEL
from clpds.tokenizer_files import copy_tokenizer
from clpds.training.model_identity import config_identity


def write_model_folder(run: Path, checkpoint: Checkpoint) -> None:
    """Write it for ``checkpoint`` as it is now, in the place of one from an earlier start; the run is taken.

    One in which somebody has changed a file stays, where it is of the same config; else it is a UserError.
    """
    folder, partial = run / MODEL, run / f"{MODEL}.clpds-partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        config = copy.deepcopy(checkpoint.config)
        config.architectures = [model_class(config).__name__]
        config.save_pretrained(partial)
        if checkpoint.generation_config is not None:
            checkpoint.generation_config.save_pretrained(partial)
        copy_tokenizer(checkpoint.tokenizer_folder, partial)
        write_manifest(partial, hash_files(sorted(partial.iterdir())))
        if not os.path.lexists(folder) or _untouched(folder):
            if not _same_manifest(folder, partial):
                replace_folder(partial, folder)
        elif config_identity(open_without_weights(folder)[0].config) != config_identity(config):
            raise UserError(f"{folder} is of another config, and was changed since a run wrote it; move it away")
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _untouched(folder: Path) -> bool:
    """Whether all in ``folder`` is as a run has written it, and nothing else is there."""
    if folder.is_symlink() or any(file.is_symlink() or not file.is_file() for file in folder.iterdir()):
        return False
    try:
        wrong = check_manifest(folder, deep=True)
    except UserError:
        return False
    return not wrong and {file.name for file in folder.iterdir()} == written_names(folder)


def _same_manifest(folder: Path, other: Path) -> bool:
    file = folder / manifest.FILE
    return file.is_file() and file.read_bytes() == (other / manifest.FILE).read_bytes()
