"""Networks that decide, their features, and their export to ONNX. Start in `nets`."""
