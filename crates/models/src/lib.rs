//! Architectures, one screen each, over shared blocks; names and configuration from GGUF and Hugging Face.
