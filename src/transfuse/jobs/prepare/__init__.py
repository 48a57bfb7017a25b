"""Opening and checking all that a job needs, before anything is written."""
