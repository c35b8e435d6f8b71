"""Interpretability tools for the course "Transfer from Transformers"."""
