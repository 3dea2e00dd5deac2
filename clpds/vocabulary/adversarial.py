"""Rotate one space of vectors into another without knowing a single pair.

| step | source |
|---|---|
| a first map, from how similar each vector is to the others | Artetxe et al. 2018, arXiv 1805.06297 |
| an adversary that tells the spaces apart trains the map | MUSE: Conneau et al. 2018, arXiv 1710.04087 |
| the map induces pairs that it is fitted to, at first by chance | Artetxe et al. 2018 |
| Procrustes refinement over many more rows (``refine``) | MUSE |

Row vectors throughout: x W ~ y. The first and third step are not MUSE's: from MUSE's start, the identity, no run
found the map between embeddings of a million words of text. ``docs/methods/wechsel.md`` has the figures.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, normalize

from clpds.progress import progress
from clpds.vocabulary.alignment import best_match, procrustes, refine
from clpds.vocabulary.induction import first_map, induce

FREQUENT = 2000  # rows of each space that the map is found on; rarer words' vectors are too noisy at first
RESTARTS = 2  # each with the adversary and without
REFINEMENTS = 5  # MUSE's number

# MUSE's values but for those that say otherwise: its 5 x 31,250 steps of 2048 units take half a day on a core.
EPOCHS, STEPS = 3, 500
HIDDEN = 512  # MUSE: 2048
BATCH = 32  # rows of each space
DISCRIMINATOR_STEPS = 5
DROPOUT = 0.1
SMOOTHING = 0.1
RATE, DECAY, SHRINK = 0.1, 0.98, 0.5
BETA = 0.01  # MUSE's program: 0.001, which a hundredth of its steps does not bring to bear


@dataclass(frozen=True)
class Unsupervised:
    """The map from ``x`` to ``y`` and what tells whether it was found."""

    W: Tensor
    """(d, d) float32, orthogonal."""
    criterion: float
    """Mean CSLS of the frequent rows of x and their matches in y."""
    agreement: float
    """Share of those rows that the two best runs match with the same row of y."""
    trained: bool
    """Whether the best run is one of those that went through the adversary."""

    def facts(self) -> dict[str, Any]:
        """For provenance.json."""
        return {key: value for key, value in asdict(self).items() if key != "W"}


def align_adversarially(x: Tensor, y: Tensor, *, seed: int, refinements: int = REFINEMENTS) -> Unsupervised:
    """The rotation of ``x`` (n, d) into the space of ``y`` (m, d), both float32 and ordered by frequency.

    It is looked for on centred vectors of length 1, several times from ``seed`` on, each time by induction at once and
    after the adversary; the run with the best criterion is refined on the vectors as they are. Where the
    spaces have no common shape the runs end in different maps: see ``agreement``.
    """
    count = min(FREQUENT, len(x), len(y))
    a, b = centre(x[:count]), centre(y[:count])
    start, runs = first_map(a, b), []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for number in range(1, RESTARTS + 1):
            for W, kind in ((start, "alone"), (train_map(a, b, start, number), "adversary")):
                found = induce(a, b, _nearest_rotation(W), f"inducing pairs, {number} of {RESTARTS} ({kind})")
                runs.append((criterion(a, b, found), found, kind == "adversary"))
    (_, best, trained), (_, next_best, _) = sorted(runs, key=lambda run: run[0], reverse=True)[:2]
    agreement = best_match(a @ best, b)[0] == best_match(a @ next_best, b)[0]
    W = refine(x, y, best, refinements)
    return Unsupervised(W, criterion(a, b, W), float(agreement.float().mean()), trained)


def centre(x: Tensor) -> Tensor:
    """Rows at length 1, less their mean, at length 1 again."""
    x = normalize(x)
    return normalize(x - x.mean(dim=0))


def criterion(x: Tensor, y: Tensor, W: Tensor) -> float:
    """The mean CSLS of each row of ``x`` and the row of ``y`` that it is matched with."""
    return float(best_match(x @ W, y)[1].mean())


def train_map(x: Tensor, y: Tensor, W: Tensor, number: int) -> Tensor:
    """Train ``W`` against a discriminator, for the ``number``-th time.

    What comes back is the map with the best criterion: ``W``, or an epoch's, which is near orthogonal, not quite. Draws
    from torch's global generator.
    """
    best, best_score, worse = W, criterion(x, y, W), 0
    scale = x.shape[1] ** 0.5  # numbers about 1, which a network starts to learn from at once
    x_scaled, y_scaled = x * scale, y * scale
    W = W.clone().requires_grad_()
    discriminator = _discriminator(x.shape[1])
    optimizers = [torch.optim.SGD(parameters, lr=RATE) for parameters in (discriminator.parameters(), [W])]
    labels = torch.tensor([1 - SMOOTHING, SMOOTHING]).repeat_interleave(BATCH)
    with progress(f"training against an adversary, {number} of {RESTARTS} (steps)", EPOCHS * STEPS) as advance:
        for _ in range(EPOCHS):
            for _ in range(STEPS):
                discriminator.train()
                for _ in range(DISCRIMINATOR_STEPS):
                    _step(discriminator, optimizers[0], _batch(x_scaled, y_scaled, W.detach()), labels)
                discriminator.eval()
                _step(discriminator, optimizers[1], _batch(x_scaled, y_scaled, W), 1 - labels)
                with torch.no_grad():
                    W.copy_(towards_orthogonal(W))
                advance(1)
            score = criterion(x, y, W.detach())
            worse = 0 if score > best_score else worse + 1
            if score > best_score:
                best, best_score = W.detach().clone(), score
            for optimizer in optimizers:
                optimizer.param_groups[0]["lr"] *= DECAY * (SHRINK if worse > 1 else 1)
    return best


def towards_orthogonal(W: Tensor) -> Tensor:
    """A step of size ``BETA`` towards the nearest orthogonal map."""
    return (1 + BETA) * W - BETA * W @ W.T @ W


def _nearest_rotation(W: Tensor) -> Tensor:
    return procrustes(torch.eye(len(W)), W)


def _discriminator(d: int) -> nn.Module:
    """Whether a vector is of x, as a logit."""
    return nn.Sequential(
        nn.Dropout(DROPOUT),
        *(nn.Linear(d, HIDDEN), nn.LeakyReLU(0.2)),
        *(nn.Linear(HIDDEN, HIDDEN), nn.LeakyReLU(0.2)),
        *(nn.Linear(HIDDEN, 1), nn.Flatten(0)),
    )


def _batch(x: Tensor, y: Tensor, W: Tensor) -> Tensor:
    """Rows of x, mapped, then as many of y."""
    mapped, other = (side[torch.randint(len(side), (BATCH,))] for side in (x, y))
    return torch.cat([mapped @ W, other])


def _step(discriminator: nn.Module, optimizer: torch.optim.Optimizer, vectors: Tensor, labels: Tensor) -> None:
    optimizer.zero_grad()
    binary_cross_entropy_with_logits(discriminator(vectors), labels).backward()
    optimizer.step()
