"""The data flow: one file per verb, each read top to bottom in a minute."""
