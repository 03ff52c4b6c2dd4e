"""ONNX files as graphs: validated, loaded, their shapes known. Start in `load`."""
