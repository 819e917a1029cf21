//! Sequences and sampling: token ids in, token ids out.
