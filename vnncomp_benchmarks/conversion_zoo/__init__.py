"""Networks exported in every way that `secateur convert` reads, and what becomes of them."""
