"""Files that travel with the package: DeepSpeed configs, Slurm templates, recipes."""

from pathlib import Path

from clpds.errors import UserError

HERE = Path(__file__).resolve().parent


def find(kind: str, name: Path) -> Path:
    """``name`` as given if it exists, else the shipped file of that name in ``kind`` (ds_configs, slurm, recipes).

    Raises UserError that lists the names there are.
    """
    if name.is_file():
        return name
    folders = [HERE / "shipped" / kind, HERE.parent / kind]  # a wheel, a checkout
    folder = next((folder for folder in folders if folder.is_dir()), folders[-1])
    if (folder / name).is_file():
        return folder / name
    known = ", ".join(sorted(file.name for file in folder.glob("*") if file.is_file()))
    raise UserError(f"{name} does not exist, and {kind}/ has no file of that name; it has {known}")
