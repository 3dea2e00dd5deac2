"""The five papers' claims, each measured at a size that one machine can do."""
