"""Looking at a run: tables, plots, pages. Reads run folders only."""
