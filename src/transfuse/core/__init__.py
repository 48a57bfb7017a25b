"""What every other room stands on: types, protocols, registries, numerics. Imports torch and errors, nothing else of ours."""
