"""Tuning of accelerations: which value of a method is fastest without too great a loss."""
