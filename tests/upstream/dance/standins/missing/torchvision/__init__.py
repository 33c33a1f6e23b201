"""Stand-in for torchvision, of which the CUDA build is all that many machines offer; used only where it is missing."""
