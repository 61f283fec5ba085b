"""Simulated card payments: is this one fraud? With switches for everything that goes wrong in life."""
