"""What jobs are made of: networks, terms, pools, what teachers answer."""
