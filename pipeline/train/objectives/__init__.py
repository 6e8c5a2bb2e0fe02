"""What training minimises: one file an objective, one a regulariser; `table` finds them by name."""
