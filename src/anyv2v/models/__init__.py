"""Nets that no library has: inference only, on torch and diffusers' building blocks alone."""
