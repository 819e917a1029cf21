//! Tokenizers, chat templates and the streaming detokenizer.
