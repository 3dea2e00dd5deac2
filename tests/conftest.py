"""Shared by all tests: real ranks, tiny models, real text. Nothing here reaches the network."""

import os

os.environ.update(
    DS_ACCELERATOR="cpu",
    HF_HUB_OFFLINE="1",
    CUDA_VISIBLE_DEVICES="",
    OMP_NUM_THREADS="1",
)

from clpds.cli import quiet_libraries

quiet_libraries()
