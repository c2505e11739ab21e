"""Inspect a store: its status, contact sheets, and the report."""
