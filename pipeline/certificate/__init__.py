"""Certificates of `unsat`, checked by code that shares nothing with the engine: see `checker`."""

from secateur.pipeline.certificate.checker import Checked, check, ignored

__all__ = ["Checked", "check", "ignored"]
