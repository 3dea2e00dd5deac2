"""Corpora to packed, memory-mapped blocks, and the order in which training sees them."""
