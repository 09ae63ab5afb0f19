"""Every assignment into SGLang."""
