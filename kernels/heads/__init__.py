"""Mechanisms that treat heads apart: which tokens a head serves, and what becomes of its output."""
