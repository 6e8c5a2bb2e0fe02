"""Everything that lies on disk or flows through a pipe: read, write, validate. No torch here."""
