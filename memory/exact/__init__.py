"""The memory in one process, on plain values: the oracle of the tests, good for evaluation."""
