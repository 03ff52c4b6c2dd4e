"""ONNX files as graphs: validated, with constants folded and every shape known. Start in `load`."""
