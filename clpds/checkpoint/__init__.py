"""Lazy checkpoints: open, derive, write. The only room that touches weight files."""

from clpds.checkpoint.anatomy import Anatomy, anatomy
from clpds.checkpoint.lazy import Checkpoint, LazyTensor
from clpds.checkpoint.open import open_checkpoint
from clpds.checkpoint.write import write_checkpoint

__all__ = ["Anatomy", "Checkpoint", "LazyTensor", "anatomy", "open_checkpoint", "write_checkpoint"]
