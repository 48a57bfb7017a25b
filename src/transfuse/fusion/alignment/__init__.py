"""Which units of a network can be reordered together, and the order in which one network's units match another's."""
