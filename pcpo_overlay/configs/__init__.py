"""``--config`` files for upstream's scripts that wrap a config file of the user's or of upstream's."""
