"""Every language model of transformers that can be built tiny, through init, train, convert, eval and plan."""
