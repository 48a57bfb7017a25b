"""What is measured, against whom, and how to repeat it. Results with seeds, spread, hardware and commit lie in results/."""
