"""Tests of the documentation: its figures, its code, its references."""
