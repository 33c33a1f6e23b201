"""Two names that the trainers import and do not use."""

root_path = ""
hps_version_map: dict[str, str] = {}
