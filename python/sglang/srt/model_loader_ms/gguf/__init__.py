"""GGUF, the file format of llama.cpp: its header, its blocks, and what it calls Hugging Face's tensors and keys.

header: the file. blocks, tensors: values. architectures: names. config, tokenizer, folder: what SGLang reads beside.
"""
