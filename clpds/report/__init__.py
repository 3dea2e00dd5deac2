"""Tables and curves that people look at."""
