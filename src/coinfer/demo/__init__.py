"""The main job on one machine: a device and edge servers as processes, shaped links, photographs, a comparison."""
