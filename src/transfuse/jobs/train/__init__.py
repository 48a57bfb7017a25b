"""Training one network, and what stands around it: stages, the control, what is measured first."""
