"""Imported by every Python that starts with this folder in PYTHONPATH."""

from tests.torture.killing import install

install()
