"""Ask an edge server with a stock client of the Open Inference Protocol, NVIDIA's.

coinfer edge resnet32 --grpc-port 8001 &
python examples/stock_client.py 127.0.0.1:8001
"""

import sys

import numpy as np
import tritonclient.grpc as triton

client = triton.InferenceServerClient(sys.argv[1])
tensor = triton.InferInput("input", [2, 3, 32, 32], "FP32")
tensor.set_data_from_numpy(np.random.default_rng(0).random((2, 3, 32, 32), dtype=np.float32))
result = client.infer("resnet32", [tensor])
print("ready:", client.is_server_ready(), "logits:", result.as_numpy("logits").shape)
