"""Decide when and whether: schedule, iteration, gate, promotion, command line."""
