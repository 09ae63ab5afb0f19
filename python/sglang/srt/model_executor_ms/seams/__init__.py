"""Every assignment into SGLang: its hooks, its registries, and the members that have no interface.

A file holds what touches one part of SGLang; a function is one seam, and takes what is ours as an argument. This room
imports no other room of ours, so every room may call it. test/seams has a contract test for each seam.
"""
