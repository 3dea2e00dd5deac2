"""Conversion: ZeRO checkpoints, and whatever else can be opened, to Hugging Face folders."""
