"""Tests, as a package, so that files of the same name in different folders don't collide."""
