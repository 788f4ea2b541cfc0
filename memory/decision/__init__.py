"""What an answer is made of: votes, and what would change them."""
