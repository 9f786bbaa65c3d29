"""The control loop and all that it needs to know of a service, whatever world it lives in."""
