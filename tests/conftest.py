"""One thread of torch in each process, as a worker has: the cores are for the test processes, which are several."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, and for the processes that tests start
