"""Linen layers that two families use."""
