"""The contenders of `versus_peers`, each in a process of its own, and the turns that they take."""
