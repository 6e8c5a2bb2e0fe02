"""Verdicts with a proof: a search whose every step the checker of `pipeline.certificate` has accepted."""
