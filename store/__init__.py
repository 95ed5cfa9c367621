"""Remember: facts and vocabulary."""
