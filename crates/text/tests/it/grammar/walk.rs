//! A random walk over what masks allow.

use allod_text::{Grammar, Tokenizer};

/// How a walk goes.
pub(crate) struct Walk {
    pub(crate) seed: u64,
    /// Tokens after which the shortest way out is taken.
    pub(crate) patience: usize,
}

impl Default for Walk {
    fn default() -> Walk {
        Walk { seed: 0, patience: 60 }
    }
}

/// xorshift64*
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % n
    }
}

/// Ids of a whole text of `grammar`, without the token that ended it. At first any allowed token may come, later those
/// that bring an end near are preferred: quotes and closing brackets.
pub(crate) fn walk(grammar: &Grammar, tokenizer: &Tokenizer, how: Walk) -> Vec<u32> {
    let mut dice = Dice(how.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut matcher = grammar.matcher();
    let mut bits = vec![0u32; tokenizer.vocab_size().div_ceil(32)];
    let mut ids = Vec::new();
    loop {
        matcher.mask(&mut bits).unwrap();
        let allowed: Vec<u32> = (0..tokenizer.vocab_size() as u32).filter(|&id| is_set(&bits, id)).collect();
        let is_end = |id: &u32| tokenizer.stop_tokens().contains(id);
        let late = ids.len() >= how.patience;
        let may_end = allowed.iter().any(is_end);
        assert_eq!(may_end, matcher.is_accepting());
        let open: Vec<u32> = allowed.iter().copied().filter(|id| !is_end(id)).collect();
        if may_end && (late || open.is_empty() || dice.below(3) == 0) {
            return ids;
        }
        assert!(ids.len() < 5000, "no end in sight: {}", tokenizer.decode(&ids, false));
        // Now and then a letter, for patterns that want one before the quote.
        let single: Vec<u32> =
            open.iter().copied().filter(|&id| tokenizer.token_bytes(id).unwrap().len() == 1).collect();
        let id = match late {
            true if !single.is_empty() && dice.below(3) == 0 => single[dice.below(single.len())],
            true => *open.iter().min_by_key(|&&id| rank(tokenizer, id, &mut dice)).unwrap(),
            false => open[dice.below(open.len())],
        };
        matcher.accept(id).unwrap();
        ids.push(id);
    }
}

/// Smaller for tokens that lead out.
fn rank(tokenizer: &Tokenizer, id: u32, dice: &mut Dice) -> (usize, usize) {
    let bytes = tokenizer.token_bytes(id).unwrap();
    let class = match &bytes[..] {
        b"\"" => 0,
        b"}" | b"]" => 1,
        b"0" | b"1" | b"null" => 2,
        [b'[' | b'{', ..] => 5,
        [0x21..0x7F] => 3,
        _ => 4,
    };
    (class, dice.below(1 << 20))
}

fn is_set(bits: &[u32], id: u32) -> bool {
    bits[id as usize / 32] >> (id % 32) & 1 == 1
}
