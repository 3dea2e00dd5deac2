"""How good a language model is on held-out text."""
