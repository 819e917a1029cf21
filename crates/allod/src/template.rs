//! provisional until the text room brings templates
use crate::chat::Message;
use allod_formats::WeightSource;
use allod_text::Tokenizer;
use anyhow::{Result, bail};
use std::path::Path;

pub(crate) struct Template;
impl Template {
    pub(crate) fn of(_: &Path, _: &dyn WeightSource) -> Result<Option<Template>> {
        Ok(None)
    }
    pub(crate) fn render(&self, _: &[Message], _: &Tokenizer) -> Result<String> {
        bail!("no templates yet")
    }
}
