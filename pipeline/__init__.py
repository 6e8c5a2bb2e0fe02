"""What is done to networks, properties and verdicts. No argument parsing, no printing."""
