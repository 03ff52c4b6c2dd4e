"""Computing time and energy, element by element, for NumPy arrays, tensors or plain numbers."""

from coinfer.types import V


def compute_s(work_flop: V, speed_flop_per_s: V | float) -> V:
    """Return work over speed (multi-task A3C, IEEE TMC 2024: L = c / f, with one cycle per FLOP in our reading).

    Args:
        work_flop: floating point operations.
        speed_flop_per_s: above 0.
    """
    return work_flop / speed_flop_per_s


def cycles(intensity_cycle_per_bit: V | float, size_bits: V) -> V:
    """Return the processor cycles gamma d of a layer (SAC-d, WCNC 2022, equation 1).

    Args:
        intensity_cycle_per_bit: gamma, cycles for each bit of input.
        size_bits: d, size of the layer's input.
    """
    return intensity_cycle_per_bit * size_bits


def compute_j(capacitance: V | float, freq_hz: V | float, work_cycles: V) -> V:
    """Return kappa f^2 c, the energy of computing.

    Multi-task A3C (IEEE TMC 2024), local energy; SAC-d (WCNC 2022), equation 1, where it is a sum over layers.

    Args:
        capacitance: kappa, the effective switched capacitance of the processor, J s^2 per cycle.
        freq_hz: f, clock rate, cycles per second.
        work_cycles: c, cycles.
    """
    return capacitance * freq_hz**2 * work_cycles


def transmit_j(power_w: V | float, upload_s: V) -> V:
    """Return power times the time on air (SAC-d, WCNC 2022, equation 2; multi-task A3C, IEEE TMC 2024, E = p L).

    Args:
        power_w: transmit power.
        upload_s: time on air, without waiting.
    """
    return power_w * upload_s
