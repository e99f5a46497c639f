"""Files in, files out: sampling and scoring as jobs that may be cut off."""
