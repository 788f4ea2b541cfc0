"""A copy of what a memory shows, in the process that answers: exact search without asking Redis for it."""
