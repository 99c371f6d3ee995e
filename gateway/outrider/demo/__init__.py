"""The demonstration: outrider demo."""
