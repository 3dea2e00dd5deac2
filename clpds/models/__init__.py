"""What transformers lacks: packed documents that do not see each other."""
