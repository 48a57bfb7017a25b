"""The parts of fine-tuning: policies, rates, depth, averages."""
