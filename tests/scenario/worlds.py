"""A small scenario as text, and lines to put into it."""

SMALL = """\
name: small
about: two devices and two servers
environment: offload
slot_s: 0.5
slots: 20
tasks_per_slot: 12
arrivals: {kind: poisson, rate_per_s: 4}
models:
  - network: alexnet
    bits: [8, 32]
    deadline_s: 0.5
devices:
  - count: 2
    catalogue: raspberry-pi-4
servers:
  - slowdown: 1
    capacity: 4
  - catalogue: desktop
links: {kind: constant, rate_bps: 1.0e+7}
"""
