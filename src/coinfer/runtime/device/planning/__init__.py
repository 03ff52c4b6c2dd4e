"""From what a device believes of links and servers to the route of a request. Start in `planner`."""
