"""Models: their packages, what runs them, what they say."""
