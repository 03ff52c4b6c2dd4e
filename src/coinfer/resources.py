"""Paths of the data that the package ships; no other module builds such a path."""

from importlib.resources import files
from pathlib import Path

DATA = Path(str(files("coinfer") / "data"))
DEVICES = DATA / "devices.csv"
"""Catalogue of device classes; written by `tools/make_device_catalogue.py`."""
MODELS = DATA / "models"
"""Trained networks (`NAME.onnx`) with their accuracy tables (`NAME.accuracy.json`)."""
NETWORKS = DATA / "networks"
"""Networks as chains with their costs (`NAME.json`), for scenarios."""
OP_REGRESSORS = DATA / "op_regressors.json"
"""Fitted regressors for each kind of operation."""
PAGE_FILES = DATA / "page"
"""Document, style and script of the controller's page."""
PHOTOS = DATA / "photos"
"""Photographs, and the names of ImageNet's classes."""
POLICIES = DATA / "policies"
"""Trained policies (`NAME.onnx`) with their side-cars (`NAME.json`)."""
ROLLOUT = DATA / "rollout.yaml"
"""When a policy may decide for a site; the settings with their reasons."""
SCENARIOS = DATA / "scenarios"
"""Preset scenarios (`NAME.yaml`)."""
TRACES = DATA / "traces" / "synthetic.csv.gz"
"""Bandwidth traces that the demo replays."""
WORKLOADS = DATA / "workloads"
"""Measured arrivals of requests, for scenarios."""
