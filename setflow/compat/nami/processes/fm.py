"""Flow matching as a process: setflow's own.

Its log-density adds the integral of the divergence, which nami subtracts, and integrates to one.
"""

from setflow import FlowMatching, FlowMatchingProcess

__all__ = ["FlowMatching", "FlowMatchingProcess"]
