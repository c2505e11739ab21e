"""Run units on Ray: the pool of workers, the cluster, metrics."""
