"""Ablations: variants of one method with a field or a few changed each, compared with it under the same budget."""
