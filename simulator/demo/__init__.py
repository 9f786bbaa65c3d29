"""A simulated cluster under the real control loop, many times as fast as time: what a newcomer looks at first."""

from simulator.demo.cluster import DemoCluster, TickTimes
from simulator.demo.specs import DemoSpec, demo_specs

__all__ = ["DemoCluster", "DemoSpec", "TickTimes", "demo_specs"]
