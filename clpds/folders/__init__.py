"""Whose a folder is: what is ours may be replaced, what somebody works on waits, what is read stays as it is."""
