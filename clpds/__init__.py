"""clpds: start a language model in a new language from one that exists, and train on from there."""

from importlib.metadata import version

__version__ = version("clpds")
