"""The derivative rules that public libraries ship, each met by a call of one of their functions."""
