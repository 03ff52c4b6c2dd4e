"""Computing and its energy. NumPy arrays, tensors or plain numbers, element by element."""

from coinfer.types import V


def compute_s(work_flop: V, speed_flop_per_s: V | float) -> V:
    """Return work over speed (multi-task A3C, IEEE TMC 2024: L = c / f, with one cycle per FLOP in our reading)."""
    return work_flop / speed_flop_per_s


def cycles(intensity_cycle_per_bit: V | float, size_bits: V) -> V:
    """Return gamma d of a layer (SAC-d, WCNC 2022, equation 1)."""
    return intensity_cycle_per_bit * size_bits


def compute_j(capacitance: V | float, freq_hz: V | float, work_cycles: V) -> V:
    """Return kappa f^2 c, the energy of computing.

    Multi-task A3C (IEEE TMC 2024), local energy; SAC-d (WCNC 2022), equation 1, where it is a sum over layers.
    """
    return capacitance * freq_hz**2 * work_cycles


def transmit_j(power_w: V | float, upload_s: V) -> V:
    """Return power times the time on air (SAC-d, WCNC 2022, equation 2; multi-task A3C, IEEE TMC 2024, E = p L)."""
    return power_w * upload_s
