"""The recommender: candidates → blend → boosts → novelty → diversity → exploration → explanation."""
