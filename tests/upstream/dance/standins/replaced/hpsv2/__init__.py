"""Stand-in for HPSv2: a CLIP of a few thousand weights with the interface by which the trainers score images."""
