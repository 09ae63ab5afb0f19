"""Joins SGLang and MindSpore; the only room that knows both.

This room imports every other room; no other room imports it. SGLang enters through `plugin` and `platform`.
"""
