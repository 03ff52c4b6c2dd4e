"""A model for MLServer that runs an ONNX file in ONNX Runtime; `throughput.py` starts it, in MLServer's environment.

PyPI has MLServer but no ONNX runtime for it. This one computes on a thread of its own, so that MLServer can receive the
next request meanwhile, with the session settings of coinfer.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import onnxruntime as ort
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxModel(MLModel):
    """One session and one thread that runs it."""

    async def load(self) -> bool:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = self.settings.parameters.uri
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]
        self._pool = ThreadPoolExecutor(1)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        feed = {tensor.name: NumpyCodec.decode_input(tensor) for tensor in payload.inputs}
        loop = asyncio.get_running_loop()
        values = await loop.run_in_executor(self._pool, self._session.run, self._names, feed)
        outputs = [NumpyCodec.encode_output(name, y) for name, y in zip(self._names, values, strict=True)]
        return InferenceResponse(model_name=self.name, outputs=outputs)
