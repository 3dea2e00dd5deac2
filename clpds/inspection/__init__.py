"""`clpds inspect`: what a folder or file is, where it comes from, and whether it is whole."""

from clpds.inspection.show import inspect

__all__ = ["inspect"]
