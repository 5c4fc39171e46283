"""Tests run in several processes at once (pytest-xdist): each computes on one core."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is loaded, here and in what tests start
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
