"""The table of bad input: a file of rows for each kind of input, one test that runs them all."""
