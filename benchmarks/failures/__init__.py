"""Failures of a cluster under load, and their figures: see `benchmarks.cluster_failures`."""
