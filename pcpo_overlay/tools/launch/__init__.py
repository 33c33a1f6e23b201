"""Starting upstream's scripts on a miniature, on a machine without CUDA, or with an end."""
