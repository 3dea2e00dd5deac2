"""Before queueing: does it fit, how long, how many GPUs. From configs alone; nothing here imports torch by itself."""
