//! What an answer must keep to, without knowing what it is: a grammar, a schema, a list of choices. Whoever knows
//! strings implements [`Grammar`] and [`Constraint`]; here they are sets of token ids.

use std::any::Any;
use std::fmt::Debug;

/// Token ids, a bit for each of a vocabulary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenMask {
    words: Vec<u32>,
    vocabulary: usize,
}

impl TokenMask {
    /// No token of `vocabulary`.
    pub fn none(vocabulary: usize) -> TokenMask {
        TokenMask { words: vec![0; vocabulary.div_ceil(32)], vocabulary }
    }

    /// Adds or removes every token.
    pub fn fill(&mut self, allowed: bool) {
        self.words.fill(if allowed { u32::MAX } else { 0 });
    }

    /// Adds or removes a token; ids outside the vocabulary are none.
    pub fn set(&mut self, id: u32, allowed: bool) {
        let bit = 1 << (id % 32);
        if (id as usize) < self.vocabulary
            && let Some(word) = self.words.get_mut(id as usize / 32)
        {
            *word = if allowed { *word | bit } else { *word & !bit };
        }
    }

    /// Whether a token is among them.
    pub fn contains(&self, id: u32) -> bool {
        let word = self.words.get(id as usize / 32);
        (id as usize) < self.vocabulary && word.is_some_and(|word| word >> (id % 32) & 1 == 1)
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.ids().next().is_none()
    }

    /// The tokens, in increasing order.
    pub fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        let of_word = |(index, &word): (usize, &u32)| {
            let mut left = word;
            std::iter::from_fn(move || {
                let bit = left.trailing_zeros();
                left &= left.wrapping_sub(1);
                (bit < 32).then(|| index as u32 * 32 + bit)
            })
        };
        self.words.iter().enumerate().flat_map(of_word).take_while(|&id| (id as usize) < self.vocabulary)
    }

    /// The bits: token `i` is bit `i % 32` of word `i / 32`. Bits behind the vocabulary do not count.
    pub fn words_mut(&mut self) -> &mut [u32] {
        &mut self.words
    }

    /// Keeps those that are in `ids` too.
    pub(super) fn intersect(&mut self, ids: &[u32]) {
        let mut both = TokenMask::none(self.vocabulary);
        ids.iter().filter(|&&id| self.contains(id)).for_each(|&id| both.set(id, true));
        *self = both;
    }
}

/// Why a constraint could not be started or kept up. It ends the answer that it belongs to, never another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the constraint failed: {0}")]
pub struct ConstraintError(pub String);

/// Something answers can be held to. Every answer starts its own [`Constraint`] from it.
pub trait Grammar: Any + Debug + Send + Sync {
    /// The state before the first token.
    ///
    /// # Errors
    /// [`ConstraintError`] when there is no such state.
    fn start(&self) -> Result<Box<dyn Constraint>, ConstraintError>;
}

/// The state of one answer under a [`Grammar`]. The model's end-of-generation tokens are not its business: it says
/// with [`may_end`](Self::may_end) whether they may come.
pub trait Constraint: Debug + Send {
    /// Adds to `mask`, which is empty, every token that may come next.
    ///
    /// # Errors
    /// [`ConstraintError`] ends the answer.
    fn mask(&mut self, mask: &mut TokenMask) -> Result<(), ConstraintError>;

    /// Takes in the token that came.
    ///
    /// # Errors
    /// [`ConstraintError`] when it may not come; the state is of no use then.
    fn accept(&mut self, id: u32) -> Result<(), ConstraintError>;

    /// The state again as a value of its own: drafts are tried on it.
    fn fork(&self) -> Box<dyn Constraint>;

    /// Whether the answer may end here.
    fn may_end(&mut self) -> bool;

    /// Whether the answer must end here, since nothing can follow.
    fn is_complete(&mut self) -> bool {
        false
    }

    /// Tokens that are likely to follow because the text leaves no choice. They are drafted, so that wrong ones cost a
    /// row and never a byte.
    fn likely(&mut self) -> Vec<u32> {
        Vec::new()
    }
}
