"""The process around the loop: clock, logs, probes, settings, memory."""
