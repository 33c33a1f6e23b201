"""What a run leaves behind: metrics, and the folder they are written to."""
