"""Public conformance kits, with which others prove their own methods and sources."""
