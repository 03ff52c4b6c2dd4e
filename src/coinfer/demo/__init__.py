"""The demo on one machine: a device, edge servers as processes, shaped links, pictures, and a comparison of schemes.

Start in `run`; `script` says what happens, `schemes` who is compared.
"""
