"""Tables of options to try rules on."""

import numpy as np
from hypothesis import strategies as st

from coinfer.options.table import Options

ACCURACIES = (0.5, 0.7, 0.9)


@st.composite
def option_tables(draw: st.DrawFn, servers: int, most: int = 8) -> Options:
    """Options with times, sizes and accuracies that often tie, among them one of each accuracy that stays on the
    device."""
    count = draw(st.integers(1, most))
    small = st.integers(0, 6).map(float)

    def column(values: st.SearchStrategy[float]) -> list[float]:
        return draw(st.lists(values, min_size=count, max_size=count))

    stays = len(ACCURACIES)
    server_s = [[*column(small), *[0.0] * stays] for _ in range(servers)]
    return Options(
        cuts=tuple((f"t{i}",) for i in range(count + stays)),
        bits=np.array([8] * count + [32] * stays),
        exit=np.zeros(count + stays, dtype=int),
        device_s=np.array([*column(small), *[draw(small) for _ in range(stays)]]),
        upload_bits=np.array([*column(st.integers(1, 6).map(float)), *[0.0] * stays]),
        server_s=np.array(server_s).T,
        accuracy=np.array([*column(st.sampled_from(ACCURACIES)), *ACCURACIES]),
        outputs=(("y",),) * (count + stays),
    )
