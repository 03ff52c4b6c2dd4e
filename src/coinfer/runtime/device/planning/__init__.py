"""From what a device believes about links and servers to the route of a request. Start in `planner`."""
