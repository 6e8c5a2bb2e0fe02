"""`python -m secateur.tools` is `secateur`."""

from secateur.tools.cli import main

main()
