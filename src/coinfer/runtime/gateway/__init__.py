"""The device as a server: any client of the Open Inference Protocol gets split inference. Start in `service`."""
