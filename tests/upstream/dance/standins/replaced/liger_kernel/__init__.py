"""Stand-in for liger_kernel, whose kernels need Triton and a GPU: the one function that Mochi's blocks import."""
