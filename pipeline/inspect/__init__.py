"""Status, contact sheets and the report of a store."""
