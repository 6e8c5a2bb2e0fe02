"""Bounds of every node of a bound graph over a box, and of what a query asks: relaxations, CROWN, α and β."""
