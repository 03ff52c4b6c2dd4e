"""Turn a PyTorch module into a graph and print its cuts. Needs the extra `train`.

python examples/torch_module.py
"""

import torch

import coinfer

module = torch.nn.Sequential(
    torch.nn.Conv2d(3, 16, 3, stride=2), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(16 * 15 * 15, 10)
)
graph = coinfer.from_torch(module.eval(), torch.zeros(1, 3, 32, 32), "tiny")
for cut in graph.useful_cuts():
    sizes = [f"{name} {graph.tensors[name].shape}" for name in cut.tensors]
    print(f"after {len(cut.head)} operations: {', '.join(sizes)}")
