"""How far forecasts of waits err: a factor on them that is learned, so that what is admitted is answered in time."""

LEAST_MARGIN, FIRST_MARGIN, MOST_MARGIN = 1.1, 1.25, 3.0
"""Factor on a forecast wait, until it is learned and then: the answer has to travel too, and no forecast is right."""
SAFETY_FACTOR = 1.1
"""Factor on the expected service of an arriving job: the answer has to travel too."""
MISSED = 0.001
"""Share of the admitted jobs that may wait longer than the margin allows."""
MARGIN_STEP = 0.05


def after_wait(margin: float, ratio: float) -> float:
    """Return the factor on forecast waits after one more job has waited.

    It grows by a step if the job waited longer than the margin allows, and shrinks otherwise, so little that both
    balance if a share `MISSED` of the jobs does: the margin follows that quantile of the ratio (Robbins and Monro).

    Args:
        margin: factor so far.
        ratio: time that the job waited over the forecast; infinite for one that waited in vain.
    """
    change = MARGIN_STEP if ratio > margin else -MARGIN_STEP * MISSED / (1 - MISSED)
    return min(max(margin + change, LEAST_MARGIN), MOST_MARGIN)
