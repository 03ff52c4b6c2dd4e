"""What of a node's report others decide by."""

from coinfer.site.messages import Report


def is_news(before: Report, after: Report) -> bool:
    """Return whether others should hear of a report soon: the load or what is served is another; counters alone are no
    news.

    Args:
        before: the last one.
        after: this one.
    """
    is_other = after.models is not None or after.profile is not None
    return is_other or (load_of(before), before.policies) != (load_of(after), after.policies)


def load_of(report: Report) -> tuple[object, ...]:
    """Return what others decide by; less than a millisecond decides nothing.

    Args:
        report: of a node.
    """
    serving = report.serving.seen if report.serving else ()
    return round(report.backlog_s, 3), report.queued, report.room, serving
