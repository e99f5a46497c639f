"""The loss of a stochastic interpolant: setflow's own.

Times that it draws itself keep away from both ends, where the variance of the target is infinite.
"""

from setflow import stochastic_fm_loss

__all__ = ["stochastic_fm_loss"]
