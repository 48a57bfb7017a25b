"""From YAML to a validated recipe, and from a recipe to one without `auto`."""
