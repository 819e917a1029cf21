//! A constraint that lets one text through.

use allod_engine::engine::{Constraint, ConstraintError, Grammar, TokenMask};
use std::sync::Arc;

/// The text, and how much of it has come.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) text: Arc<[u32]>,
    pub(crate) at: usize,
}

impl Grammar for Script {
    fn start(&self) -> Result<Box<dyn Constraint>, ConstraintError> {
        Ok(Box::new(self.clone()))
    }
}

impl Constraint for Script {
    fn mask(&mut self, mask: &mut TokenMask) -> Result<(), ConstraintError> {
        mask.set(*self.text.get(self.at).ok_or_else(|| ConstraintError("the text is over".into()))?, true);
        Ok(())
    }

    fn accept(&mut self, id: u32) -> Result<(), ConstraintError> {
        if self.text.get(self.at) != Some(&id) {
            return Err(ConstraintError("another token".into()));
        }
        self.at += 1;
        Ok(())
    }

    fn fork(&self) -> Box<dyn Constraint> {
        // A draft is tried by the target, as without a constraint: this one would know the answer beforehand.
        Box::new(Anything)
    }

    fn may_end(&mut self) -> bool {
        false
    }
}

/// Lets everything through.
#[derive(Debug)]
struct Anything;

impl Constraint for Anything {
    fn mask(&mut self, mask: &mut TokenMask) -> Result<(), ConstraintError> {
        mask.fill(true);
        Ok(())
    }

    fn accept(&mut self, _: u32) -> Result<(), ConstraintError> {
        Ok(())
    }

    fn fork(&self) -> Box<dyn Constraint> {
        Box::new(Anything)
    }

    fn may_end(&mut self) -> bool {
        false
    }
}
