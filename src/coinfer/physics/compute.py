"""Computing and its energy. NumPy arrays, tensors or plain numbers, element by element."""

from coinfer.types import Array


def compute_s(work_flop: Array, speed_flop_per_s: Array) -> Array:
    """Work over speed (multi-task A3C, IEEE TMC 2024: L = c / f, with one cycle per FLOP in our reading)."""
    return work_flop / speed_flop_per_s


def cycles(intensity_cycle_per_bit: Array, size_bits: Array) -> Array:
    """gamma d of a layer (SAC-d, WCNC 2022, equation 1)."""
    return intensity_cycle_per_bit * size_bits


def compute_j(capacitance: Array, freq_hz: Array, work_cycles: Array) -> Array:
    """kappa f^2 c (multi-task A3C, IEEE TMC 2024, local energy; SAC-d, WCNC 2022, equation 1, a sum over layers)."""
    return capacitance * freq_hz**2 * work_cycles


def transmit_j(power_w: Array, upload_s: Array) -> Array:
    """Power over the time on air (SAC-d, WCNC 2022, equation 2; multi-task A3C, IEEE TMC 2024, E = p L)."""
    return power_w * upload_s
