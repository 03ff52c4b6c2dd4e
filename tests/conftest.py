"""What holds for every test.

Property tests draw the same examples in every run, so that a run says something about the change it tests and not about
luck. To look for new counterexamples, roll the dice anew: `pytest --hypothesis-profile=dice`. No example has a deadline
and none is refused for being slow: how long one takes says nothing on a machine with other work to do.
"""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "same", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("dice", settings.get_profile("same"), derandomize=False, print_blob=True)
settings.load_profile("same")
