"""Which cut is best for every link rate, for a network on a Raspberry Pi 4 beside a server like this machine."""

import numpy as np

import coinfer
from coinfer.options.compile import compile_options
from coinfer.partition.hull import Hull
from coinfer.profile.devices import slowdown
from coinfer.runtime.profiling import profile_for

graph = coinfer.open_model("alexnet-cifar")
table = profile_for(graph)
options = compile_options(graph, table, bits=(32, 8))
hull = Hull.build(options.device_s * slowdown("raspberry-pi-4", table) + options.server_s[:, 0], options.upload_bits)

rates_bps = np.geomspace(1e5, 1e9, 9)
for rate_bps, option in zip(rates_bps, hull.best(rates_bps), strict=True):
    print(f"{rate_bps / 1e6:8.1f} Mbit/s: cut after {' + '.join(options.cuts[option])}, {options.bits[option]} bits")
