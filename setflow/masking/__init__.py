"""The centre: flow matching on sets of variable size.

Notation. A set has N slots with D features, `x` of shape `(*lead, N, D)`; `mask` of shape
`(*batch, N)` says which slots hold a real object (True). Data stand at t = 0 and noise at t = 1.
The network learns the velocity v(x, t) of the path between them.

The loss is, per object, the mean of the squared error over features; per event, the mean over its
real objects (0 if it has none); then the mean over events. So every event weighs the same, whatever
its size. Sampling integrates dx/dt = v(x, t) from t = 1 to t = 0. The log-density of data x is that
of the noise z to which the same equation carries it, plus the divergence of v collected on the way:

    log p(x at t = 0) = log p(z at t = 1) + the integral of div v from t = 0 to t = 1.

Padding is never read. Padded input is zeroed before the field and padded velocity after it, in
training and in use alike.
"""

from setflow.masking.log_prob import LogProbEstimate, SampleWithLogProb, masked_log_prob
from setflow.masking.loss import fm_loss, masked_fm_loss
from setflow.masking.sample import masked_sample

__all__ = [
    "LogProbEstimate",
    "SampleWithLogProb",
    "fm_loss",
    "masked_fm_loss",
    "masked_log_prob",
    "masked_sample",
]
