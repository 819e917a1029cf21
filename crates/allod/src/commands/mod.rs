pub(crate) mod bench;
pub(crate) mod completions;
pub(crate) mod inspect;
pub(crate) mod logits;
pub(crate) mod run;
pub(crate) mod tokenize;
