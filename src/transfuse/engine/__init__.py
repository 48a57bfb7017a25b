"""Training in plain torch. Knows core's protocols and plain values: no concrete method, no recipe."""
