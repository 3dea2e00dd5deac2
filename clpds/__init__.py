"""clpds: start a language model in a new language from one that exists, and train on from there."""

__version__ = "0.1.0"
