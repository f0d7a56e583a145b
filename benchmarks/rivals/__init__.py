"""Other tools and ours on one problem: each makes a model in its own environment, one function
scores them all."""
