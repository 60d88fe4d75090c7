"""Spectra of audio and back: pure JAX, any leading batch shape."""
