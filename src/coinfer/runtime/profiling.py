"""Measuring a network together with the codec that will carry its tensors, and remembering the result."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from coinfer.graph.ir import ModelGraph
from coinfer.profile.table import ProfileTable
from coinfer.runtime.images import load_images, to_pixels


def profile_for(
    graph: ModelGraph, source: str | Path | None, threads: int, bits: Sequence[int]
) -> ProfileTable:
    raise NotImplementedError
