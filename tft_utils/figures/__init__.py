"""Figures of the lessons, one file a lesson: a result in, a figure and its alt text out."""
