"""Arguments, frameworks and requests: what is checked and settled before anything computes."""
