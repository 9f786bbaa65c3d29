"""What is kept of a sequence so that it is not encoded again: rolling encodings, parts of other sequences."""
