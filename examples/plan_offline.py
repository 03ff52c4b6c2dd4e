"""Print the best cut at several link rates, for a network on a Raspberry Pi 4 and a server as fast as this machine.

python examples/plan_offline.py
"""

import numpy as np

import coinfer

graph = coinfer.open_model("alexnet-cifar")
table = coinfer.profile_for(graph)
options = coinfer.compile_options(graph, table, bits=(32, 8))
device_s = options.device_s * coinfer.device_slowdown("raspberry-pi-4", table)
hull = coinfer.Hull.build(device_s + options.server_s[:, 0], options.upload_bits)

rates_bps = np.geomspace(1e5, 1e9, 9)
for rate_bps, option in zip(rates_bps, hull.best(rates_bps), strict=True):
    print(f"{rate_bps / 1e6:8.1f} Mbit/s: cut after {' + '.join(options.cuts[option])}, {options.bits[option]} bits")
