"""SGLang's way to add processors of images: a package that SGLANG_EXTERNAL_MM_PROCESSOR_PACKAGE names.

SGLang 0.5.23 has none for some architectures that are computed here, and one for LLaVA that cannot serve it.
"""
