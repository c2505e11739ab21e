"""Run units on Ray: the driver of a run, its pool of workers, the cluster and metrics."""
