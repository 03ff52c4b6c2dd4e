"""What a decision costs. Written with operators only, so NumPy arrays and tensors of any library may come in."""

from coinfer.types import Array, OffloadObservation


def offload_latency_s(observation: OffloadObservation) -> Array:
    """Predicted latency of every option on every server, [.., K, O, N], were it the only task decided now.

    Backlog of the device, computing and encoding there, upload, backlog of the server, computing there
    (CDO-DSAC, SEKE 2023: the sum of inference, transmission and queueing times). Where an option uploads nothing the
    server plays no part, and all its N entries are the time on the device.
    """
    upload_bits = observation.option_upload_bits[..., None]
    on_device_s = (observation.device_backlog_s[..., None] + observation.option_device_s)[..., None]
    on_server_s = (
        upload_bits / observation.uplink_bps[..., None, :]
        + observation.server_backlog_s[..., None, None, :]
        + observation.option_server_s
    )
    return on_device_s + (upload_bits > 0) * on_server_s
