"""The paper's experiments, each through the running service."""
