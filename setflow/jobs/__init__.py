"""Files in, files out: sampling, scoring and evaluation as jobs that may be cut off."""
