"""Data: one file = one source of samples, found by its prefix (`images:./photos`)."""
