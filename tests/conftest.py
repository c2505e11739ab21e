"""One thread of torch in each process, as a worker has: the cores are for the test processes, which are several."""

import os

from hypothesis import settings

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, and for the processes that tests start

settings.register_profile("suite", deadline=None)  # how long an example takes is the machine's affair
settings.load_profile("suite")
