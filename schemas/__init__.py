"""What is on disk: the specs a person writes, and the JSON Schemas generated from them. Imports no other room."""
