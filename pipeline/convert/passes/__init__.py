"""The passes, a file each: `check` says why there is nothing to do, `rewrite` does it; `table` has all by name."""
