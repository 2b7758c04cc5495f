"""The engine floor: packed scoring, constrained generation and the scoring modes."""
