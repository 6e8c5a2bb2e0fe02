"""Branch and bound: over ReLUs, over linear programs that learn, over the input box, over nonlinear arguments."""
