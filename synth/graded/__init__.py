"""The graded proposer: profiles over distance times graded sets of tokens, for heads of many words."""
