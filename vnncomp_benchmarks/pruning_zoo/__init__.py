"""Small networks of many shapes, exported by torch, for measuring what pruning does to them."""
