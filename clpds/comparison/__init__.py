"""Methods side by side, before any training."""
