"""Work in blocks, so that memory follows a constant and not a vocabulary."""

BLOCK = 2**24  # numbers held at once of what is too large to hold: 64 MB in float32


def blocks(length: int, width: int) -> list[slice]:
    """Slices of ``length`` rows with at most BLOCK numbers each, at ``width`` numbers a row."""
    height = max(1, BLOCK // width)
    return [slice(start, start + height) for start in range(0, length, height)]
