"""Is every rank of a job fit to train? Each looks at itself, rank 0 asks, judges and prints; under a minute."""
