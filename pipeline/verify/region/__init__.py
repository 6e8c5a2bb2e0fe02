"""One network for one box: stable and dead parts folded away, the neurons that are left bounded more tightly."""
