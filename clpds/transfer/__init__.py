"""Transfer methods: one file a method, each a function from a source's vocabulary rows to a target's."""
