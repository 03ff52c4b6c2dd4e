// Ask a gateway or an edge server over REST, with tensors as bytes; needs nothing but Node 18 or later.
//
// coinfer gateway resnet32 --http-port 8010 &
// node examples/client.mjs 127.0.0.1:8010 resnet32

const [address, model] = process.argv.slice(2);
const url = `http://${address}/v2/models/${model}`;

const [{ inputs: [input] }] = await ask(url);
const shape = input.shape.map((size) => Math.max(Number(size), 1)); // -1 is an axis of any size
const pixels = Float32Array.from({ length: shape.reduce((a, b) => a * b) }, (_, i) => Math.sin(i));

const answer = await infer({ inputs: [{ name: input.name, datatype: "FP32", shape }] }, pixels);
for (const { name, shape, values } of answer.outputs) {
  console.log(`${name} [${shape}]: largest at ${values.indexOf(Math.max(...values))}`);
}
console.log(`answered by ${answer.parameters.executed_on ?? address}`);

/** Return the reply to a request; its one tensor follows the JSON, and so do those of the reply. */
async function infer(request, tensor) {
  const bytes = Buffer.from(tensor.buffer, tensor.byteOffset, tensor.byteLength);
  request.inputs[0].parameters = { binary_data_size: bytes.length };
  const head = Buffer.from(JSON.stringify({ ...request, parameters: { binary_data_output: true, deadline_s: 60 } }));
  const headers = { "Inference-Header-Content-Length": String(head.length) };
  const [reply, rest] = await ask(`${url}/infer`, { method: "POST", headers, body: Buffer.concat([head, bytes]) });
  let at = 0;
  for (const output of reply.outputs) {
    const end = at + output.parameters.binary_data_size;
    output.values = new Float32Array(rest.slice(at, end)); // a copy, as it may lie anywhere
    at = end;
  }
  return reply;
}

/** Return the JSON of a reply and the bytes after it; print what the server says is wrong, and end. */
async function ask(url, options) {
  const response = await fetch(url, options);
  const body = await response.arrayBuffer();
  const size = Number(response.headers.get("Inference-Header-Content-Length") ?? body.byteLength);
  const json = JSON.parse(Buffer.from(body, 0, size).toString());
  if (!response.ok) {
    console.error(`error: ${json.error}`);
    process.exit(1);
  }
  return [json, body.slice(size)];
}
