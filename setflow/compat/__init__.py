"""Names of other libraries as thin aliases, so that moving is a change of the import.

`setflow.compat.nami` has nami's tree of modules, `setflow.compat.nemo` the names of NeMo
Automodel's `time_shift_utils`, and `setflow.compat.fastgen` those of Model Optimizer's
`flow_matching`. Arguments have the order that they have there; numbers are setflow's, also where
theirs are wrong. `docs/names.md` says what differs.
"""
