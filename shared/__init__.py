"""What the API and the workers have in common: the truth in PostgreSQL and the words for it."""
