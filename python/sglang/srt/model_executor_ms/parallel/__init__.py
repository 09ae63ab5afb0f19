"""Hosts, ranks and replicas: who is in which group, how they meet, and how a lost one is noticed."""
