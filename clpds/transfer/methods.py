"""The methods by name: from the options and the opened models to the new rows.

To add one that suits any model: its name in ``VocabularyMethod`` of ``recipe/transfer.py``, what it needs and its
options in ``NEEDS`` and ``USED_BY`` there, and a line in ``METHODS`` below.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch

from clpds.errors import UserError
from clpds.recipe import Init, InitMethod, VocabularyMethod
from clpds.transfer import summary
from clpds.transfer.baselines import mean_rows, overlap_rows, random_rows, subpiece_rows
from clpds.transfer.choose import Choice, best, choose_sparsity, grid, rank
from clpds.transfer.clp import Variant, clp
from clpds.transfer.focus import focus
from clpds.transfer.models import Models
from clpds.transfer.omp import omp
from clpds.transfer.trelm import aligned_rows, by_shape, by_shared_tokens
from clpds.transfer.vocabulary_swap import Rows
from clpds.transfer.wechsel import find_neighbours, wechsel
from clpds.vocabulary.adversarial import REFINEMENTS, Unsupervised, align_adversarially
from clpds.vocabulary.alignment import Alignment, align
from clpds.vocabulary.dictionary import read_dictionary
from clpds.vocabulary.roles import match_special
from clpds.vocabulary.segments import segment
from clpds.vocabulary.static import StaticEmbeddings, read_static, require_same_dimension
from clpds.vocabulary.subwords import subword_vectors

TEMPERATURES: dict[str, float] = {"clp": 0.05, "wechsel": 0.1}  # each paper's, or what suits it best
SHRINK = 0.25  # of auto: SmolLM2 starts at 2.41 bits per byte of German in place of 2.46


@dataclass(frozen=True)
class Found:
    """What a method makes of the models."""

    rows: Rows
    how: str
    """Where the rows come from, for the model card."""
    facts: dict[str, Any] = field(default_factory=dict)
    """For provenance.json."""
    choice: Choice | None = None
    """The ranking of weightings, where the method has several."""


def find(step: Init, models: Models) -> Found:
    """The rows by ``step.method``; UserError where its inputs do not fit together, and for no overlap."""
    shared = models.shared
    if step.method in BY_OVERLAP and len(shared.target) - shared.how["special"] < 2:
        raise UserError(
            f"{step.source} and {models.target_folder} have no overlap: no text is a token of both; "
            "try --method subpieces"
        )
    if step.method == "trelm":
        return _trelm(step, models)
    return METHODS[step.method](step, models)


def _clp(step: Init, models: Models) -> Found:
    """Rank the weightings and take the one asked for, or the best for ``auto``."""
    shared, helper = models.shared, models.helper_matrices()
    asked, variants = None, grid()
    if step.weighting != "auto":
        temperature = step.temperature or TEMPERATURES[step.method]
        asked = Variant(step.weighting, step.neighbours, temperature, step.ridge, step.center)
        variants = list(dict.fromkeys([asked, *variants]))
    source = {role: models.matrix(role, rows) for role, rows in models.rows.items()}
    scores = rank(shared, source, helper, seed=step.seed, variants=variants)
    chosen = asked or best(scores).variant
    assert chosen is not None  # best() passes over the mean row
    # The source's own tokens, which --extend keeps, stay what they are.
    shrink = (SHRINK if step.weighting == "auto" and not step.extend else 0.0) if step.shrink is None else step.shrink
    if shrink:
        summary.show_shrink(shrink)
    special = match_special(models.source_tokenizer, models.target_tokenizer)
    return Found(
        clp(shared, chosen, helper, shrink=shrink, special=special),
        f"CLP-Transfer (Ostendorff & Rehm 2023, arXiv 2301.09626), `{chosen}`"
        + (f", shared rows by `--shrink {shrink:g}`" if shrink else ""),
        {"weighting": asdict(chosen), "shrink": shrink, "ranking": [score.facts() for score in scores]},
        Choice(chosen, scores, helper),
    )


def _focus(step: Init, models: Models) -> Found:
    # datasets and gensim, which no other method waits for
    from clpds.data.read import stream_documents
    from clpds.vocabulary.token_vectors import FOCUS, token_vectors

    vectors = token_vectors(
        stream_documents(step.text, text_key=step.text_key), models.target_tokenizer, FOCUS, step.seed
    )
    unplaced = int((vectors[models.shared.missing] == 0).all(dim=1).sum())
    how = f"FOCUS (Dobler & de Melo 2023, arXiv 2305.14481); {unplaced:,} new tokens, rare in its text, are random"
    return Found(focus(models.shared, vectors, step.seed), how, {"drawn": unplaced})


def _omp(step: Init, models: Models) -> Found:
    """With the number of shared tokens asked for, or else one that predicts hidden ones well."""
    helper, centered = models.helper_matrices(), not step.uncentered
    sparsity, losses = step.sparsity, dict[int, float]()
    if sparsity is None:
        source = {role: models.matrix(role, rows) for role, rows in models.rows.items()}
        sparsity, losses = choose_sparsity(models.shared, source, helper, centered=centered, seed=step.seed)
    kind = "" if centered else ", as published,"
    how = f"orthogonal matching pursuit (arXiv 2506.06607){kind} of {sparsity} shared tokens for each new one"
    rows = omp(models.shared, helper, sparsity, centered=centered)
    return Found(rows, how, {"sparsity": sparsity, "losses": losses})


def _random(step: Init, models: Models) -> Found:
    how = "random, with the source's mean and deviation per dimension; nothing is copied"
    return Found(random_rows(models.shared, step.seed), how)


def _overlap(step: Init, models: Models) -> Found:
    how = "shared ones copied, new ones random with the source's mean and deviation per dimension"
    return Found(overlap_rows(models.shared, step.seed), how)


def _mean(step: Init, models: Models) -> Found:
    return Found(mean_rows(models.shared), "shared ones copied, new ones the mean of the source's rows")


def _subpieces(step: Init, models: Models) -> Found:
    how = "shared ones copied, new ones the mean of their own text's rows under the source's tokenizer"
    segments = segment(models.source_tokenizer, models.target_tokenizer, models.shared.missing.tolist())
    return Found(subpiece_rows(models.shared, segments), how)


def _wechsel(step: Init, models: Models) -> Found:
    """Align the two embeddings, give both vocabularies vectors in one space, take the nearest."""
    assert step.source_embeddings is not None  # recipe.NEEDS
    assert step.target_embeddings is not None
    ours = read_static(step.source_embeddings, limit=step.max_words)
    theirs = read_static(step.target_embeddings, limit=step.max_words)
    alignment = _alignment(step, ours, theirs)
    source = subword_vectors(models.source_tokenizer, ours) @ alignment.W
    target = subword_vectors(models.target_tokenizer, theirs)
    subwords = find_neighbours(source, target, step.neighbours)
    shared = models.shared
    copied = shared.target, shared.source
    if not step.copy_overlap:
        special = match_special(models.source_tokenizer, models.target_tokenizer)
        copied = torch.tensor(list(special), dtype=torch.int64), torch.tensor(list(special.values()), dtype=torch.int64)
    origin = torch.zeros(len(target), dtype=torch.uint8)  # of each row: drawn, nearest or copied
    origin[subwords.targets], origin[copied[0]] = 1, 2
    drawn, near, _ = torch.bincount(origin[torch.cat([shared.target, shared.missing])], minlength=3).tolist()
    counts = {"copied": len(copied[0]), "nearest": near, "drawn": drawn}
    temperature = step.temperature or TEMPERATURES[step.method]
    how = "WECHSEL (Minixhofer et al. 2022, arXiv 2112.06598): " + summary.origins(counts)
    summary.show_origins(counts)
    return Found(
        wechsel(subwords, copied, random_rows(shared, step.seed), temperature),
        how,
        {"alignment": alignment.facts(), "rows": counts},
    )


def _alignment(step: Init, source: StaticEmbeddings, target: StaticEmbeddings) -> Alignment | Unsupervised:
    """By the dictionary where there is one, else by the shape of the two spaces; told on the screen."""
    if step.dictionary is None:
        require_same_dimension(source, target)
        rounds = max(step.refinements, REFINEMENTS)
        found = align_adversarially(source.matrix, target.matrix, seed=step.seed, refinements=rounds)
        instead = "give --dictionary (clpds dictionary makes one of parallel text), or embeddings of more text"
        summary.show_unsupervised(found, instead)
        return found
    pairs = read_dictionary(step.dictionary)
    fitted = align(source, target, pairs, name=step.dictionary, refinements=step.refinements, seed=step.seed)
    summary.show_alignment(fitted, len(pairs))
    return fitted


def _trelm(step: Init, models: Models) -> Found:
    """Static vectors of the source's width for all tokens, aligned with the source's rows."""
    # datasets and gensim, which no other method waits for
    from clpds.data.read import stream_documents
    from clpds.vocabulary.token_vectors import token_counts, token_vectors, trelm

    width = models.matrix("input", models.rows["input"]).shape[1]

    def texts() -> Iterator[str]:
        return stream_documents(step.text, text_key=step.text_key)

    vectors = token_vectors(texts(), models.target_tokenizer, trelm(width), step.seed)
    if step.adversarial:
        frequencies = token_counts(texts(), models.target_tokenizer), token_counts(texts(), models.source_tokenizer)
        instead = "leave out --adversarial, or pass more text"
        rotation = by_shape(vectors, frequencies, step.seed, partial(summary.show_unsupervised, instead=instead))
    else:
        rotation = by_shared_tokens(models.shared, vectors)
    special = match_special(models.source_tokenizer, models.target_tokenizer)
    used = torch.cat([models.shared.target, models.shared.missing])
    copied = torch.isin(used, torch.tensor(list(special), dtype=torch.long))
    placed = vectors[used].any(dim=1) & ~copied
    counts = {"aligned": int(placed.sum()), "copied": int(copied.sum()), "drawn": int((~placed & ~copied).sum())}
    summary.show_origins(counts)
    how = f"TreLM (Li et al. 2021, arXiv 2107.12627): {summary.origins(counts)}"
    return Found(aligned_rows(models.shared, special, vectors, rotation, step.seed), how, {"rows": counts})


BY_OVERLAP: tuple[VocabularyMethod, ...] = ("clp", "focus", "omp")  # make a new row of shared tokens' rows
METHODS: dict[InitMethod, Callable[[Init, Models], Found]] = {  # those that make rows: every VocabularyMethod
    "clp": _clp,
    "focus": _focus,
    "omp": _omp,
    "random": _random,
    "overlap": _overlap,
    "mean": _mean,
    "subpieces": _subpieces,
    "wechsel": _wechsel,
}
