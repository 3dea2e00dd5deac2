"""Measurements: each prints a table, is run by hand, and is no test."""
