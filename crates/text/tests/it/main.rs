//! What this room promises, against real vocabularies and against other implementations.

mod vocabularies;
