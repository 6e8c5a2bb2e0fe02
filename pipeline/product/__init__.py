"""Queries about several networks (or several inputs, outputs, hidden values) as one network and a plain property."""

from secateur.pipeline.product.compiling import Product, check, compile
from secateur.pipeline.product.declarations import declared, declared_as, models_of, plain

__all__ = ["Product", "check", "compile", "declared", "declared_as", "models_of", "plain"]
