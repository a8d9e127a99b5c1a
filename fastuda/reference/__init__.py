"""The definition of each operator in plain PyTorch: fallback, oracle and baseline in one."""
