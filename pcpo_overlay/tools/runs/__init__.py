"""Reading run folders."""
