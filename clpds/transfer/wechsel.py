"""WECHSEL: tensors in, tensors out.

Minixhofer et al. 2022, arXiv 2112.06598. Both vocabularies lie in one space of static word embeddings. The row
e_t of a target subword t is the mean of the source rows of its k nearest source subwords there, weighted by
softmax(cos / temperature). Shared tokens are no exception. ``docs/methods/wechsel.md`` has the maths.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import normalize

from clpds.errors import UserError
from clpds.progress import progress
from clpds.transfer.clp import Space, nearest, neighbours
from clpds.transfer.vocabulary_swap import Role, Rows

NEIGHBOURS = 10
TEMPERATURE = 0.1


@dataclass(frozen=True)
class Subwords:
    """Each target row's neighbours among the source's subwords."""

    targets: Tensor
    """int64 (m,): the target ids that have a vector."""
    sources: Tensor
    """int64 (m, k): ids of the nearest source subwords, nearest first."""
    cosines: Tensor
    """(m, k) float32."""


def find_neighbours(source: Tensor, target: Tensor, k: int = NEIGHBOURS) -> Subwords:
    """The ``k`` nearest of ``source`` (V_s, d) for each row of ``target`` (V_t, d), in one space.

    Rows of zeros have no vector: they find nothing and are not found. Similarities are held block by block.
    Raises UserError where a whole side has no vectors.
    """
    has, wanted = source.any(dim=1).nonzero()[:, 0], target.any(dim=1).nonzero()[:, 0]
    for name, ids in (("source", has), ("target", wanted)):
        if len(ids) == 0:
            raise UserError(f"the {name} embeddings give no token of the {name} tokenizer a vector")
    ours, theirs = normalize(source[has]), normalize(target[wanted])
    with progress("nearest subwords", len(theirs)) as advance:
        cosines, indices = neighbours(Space(ours, theirs), k, advance)
    return Subwords(wanted, has[indices], cosines)


def wechsel(subwords: Subwords, copied: tuple[Tensor, Tensor], drawn: Rows, temperature: float = TEMPERATURE) -> Rows:
    """The method: rows from the neighbours, or copied: target id ``copied[0][i]`` has that of ``copied[1][i]``.

    What has neither is as ``drawn``. The paper copies special tokens only, and draws from the source's
    distribution (``random_rows``).
    """

    def rows(source: Tensor, role: Role) -> Tensor:
        new = drawn(source, role)
        new[subwords.targets] = nearest(subwords.cosines, subwords.sources, source, [temperature])[0].to(source.dtype)
        new[copied[0]] = source[copied[1]]
        return new

    return rows
