"""Bounds of a network's values over boxes, as differentiable functions of its weights, for certified training.

The engine of `pipeline.verify` proves; this trains. It computes the same intervals and the same linear bounds (tests
compare them), batched over images, through torch's autograd and without care for rounding: nothing here is a proof.

`trace` runs a network on a batch and notes what every node does; `propagate` sends boxes forward through that (IBP)
and linear functions back (CROWN).
"""
