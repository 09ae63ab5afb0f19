"""The CPU table: C++ operators."""
