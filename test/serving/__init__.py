"""A package, so that its engines and its server can end with its last test, and before the tests of other folders."""
