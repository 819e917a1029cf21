//! The tokens of a model: their texts, kinds, spelling, and the roles some of them play.

use super::bytes;
use std::borrow::Cow;
use tokenizers::decoders::wordpiece::cleanup;

/// What a token is, numbered as GGUF's `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Normal = 1,
    Unknown = 2,
    /// Begins, ends or structures a text; never part of it.
    Control = 3,
    /// Found in the text before anything else.
    UserDefined = 4,
    Unused = 5,
    /// One byte, spelled `<0x0A>`.
    Byte = 6,
}

impl Kind {
    /// The kind numbered `n`; unknown numbers are unused tokens.
    pub(super) fn from_number(n: i64) -> Kind {
        match n {
            1 => Kind::Normal,
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            6 => Kind::Byte,
            _ => Kind::Unused,
        }
    }

    /// Found in a text before it is cut into words.
    pub(super) fn is_added(self) -> bool {
        matches!(self, Kind::Control | Kind::Unknown | Kind::UserDefined)
    }

    /// Left out of decoded text when special tokens are skipped.
    pub(crate) fn is_special(self) -> bool {
        matches!(self, Kind::Control | Kind::Unknown)
    }
}

/// How the text of a normal token spells its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// As it stands.
    Plain,
    /// GPT-2's printable stand-ins, one character a byte.
    ByteLevel,
    /// This character stands for a space.
    Space(char),
    /// A token continues a word when it begins with this prefix, else a space comes before it.
    Continuing(String),
    /// This suffix ends a word: a space follows.
    WordEnd(String),
    /// Every token is a word: a space comes before it.
    Separate,
}

/// What some tokens are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Beginning of a sequence.
    Bos,
    /// End of a sequence.
    Eos,
    /// End of a turn.
    Eot,
    /// End of a message that expects a tool's answer.
    Eom,
    /// Stands for what the vocabulary cannot express.
    Unk,
    /// Fills batches.
    Pad,
    /// Separates the parts of an encoder's input.
    Sep,
    /// Its hidden state stands for the sequence.
    Cls,
    /// The place to fill in a masked text.
    Mask,
    /// Fill in the middle: the text before follows.
    FimPre,
    /// Fill in the middle: the text after follows.
    FimSuf,
    /// Fill in the middle: the answer follows.
    FimMid,
    /// Fill in the middle: padding.
    FimPad,
    /// Fill in the middle: a repository's name follows.
    FimRep,
    /// Fill in the middle: between files.
    FimSep,
}

/// Number of [`Role`]s.
const ROLES: usize = Role::FimSep as usize + 1;

/// One entry of the vocabulary.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(super) text: Box<str>,
    pub(crate) kind: Kind,
}

/// All tokens of a model, by id.
#[derive(Clone, Debug)]
pub(crate) struct Vocab {
    pub(super) tokens: Vec<Token>,
    pub(super) spelling: Spelling,
    /// A text's encoding begins with a space that is not part of it.
    pub(crate) strip_space: bool,
    /// No space of its first token is part of it (Metaspace).
    pub(crate) strip_all: bool,
    /// No space goes before punctuation (WordPiece's clean-up).
    pub(super) cleanup: bool,
    pub(super) roles: [Option<u32>; ROLES],
    /// Ids that end a generation, ascending.
    pub(super) stops: Vec<u32>,
}

impl Vocab {
    pub(super) fn new(tokens: Vec<Token>, spelling: Spelling) -> Vocab {
        Vocab {
            tokens,
            spelling,
            strip_space: false,
            strip_all: false,
            cleanup: false,
            roles: [None; ROLES],
            stops: Vec::new(),
        }
    }

    pub(super) fn role(&self, role: Role) -> Option<u32> {
        self.roles[role as usize]
    }

    /// Gives `id` the role; an id outside the vocabulary is no token and plays none.
    pub(super) fn set_role(&mut self, role: Role, id: Option<u32>) {
        self.roles[role as usize] = id.filter(|&id| (id as usize) < self.tokens.len());
    }

    pub(crate) fn get(&self, id: u32) -> Option<&Token> {
        self.tokens.get(id as usize)
    }

    /// The bytes `id` adds to a text, special tokens as they are written. `None` outside the vocabulary.
    pub(crate) fn bytes(&self, id: u32) -> Option<Cow<'_, [u8]>> {
        let token = self.get(id)?;
        let text = &*token.text;
        let spelled = match (token.kind, &self.spelling) {
            (Kind::Byte, _) => {
                return Some(match bytes::parse_hex(text) {
                    Some(byte) => Cow::Owned(vec![byte]),
                    None => Cow::Borrowed(text.as_bytes()),
                });
            }
            (Kind::UserDefined, Spelling::Continuing(_) | Spelling::Separate) => {
                return Some(Cow::Owned(format!(" {text}").into_bytes()));
            }
            (Kind::Control | Kind::Unknown | Kind::UserDefined, _) | (_, Spelling::Plain) => {
                return Some(Cow::Borrowed(text.as_bytes()));
            }
            (_, Spelling::ByteLevel) => return Some(Cow::Owned(bytes::from_printable(text))),
            (_, &Spelling::Space(stand_in)) if text.contains(stand_in) => Cow::Owned(text.replace(stand_in, " ")),
            (_, Spelling::Space(_)) => Cow::Borrowed(text),
            (_, Spelling::Continuing(prefix)) => match text.strip_prefix(prefix.as_str()) {
                Some(rest) => Cow::Borrowed(rest),
                None => Cow::Owned(format!(" {text}")),
            },
            (_, Spelling::Separate) => Cow::Owned(format!(" {text}")),
            (_, Spelling::WordEnd(suffix)) => match text.strip_suffix(suffix.as_str()) {
                Some(word) => Cow::Owned(format!("{word} ")),
                None => Cow::Borrowed(text),
            },
        };
        Some(match (spelled, self.cleanup) {
            (spelled, true) => Cow::Owned(cleanup(&spelled).into_bytes()),
            (Cow::Borrowed(text), false) => Cow::Borrowed(text.as_bytes()),
            (Cow::Owned(text), false) => Cow::Owned(text.into_bytes()),
        })
    }

    /// The first token with this text.
    pub(super) fn find(&self, text: &str) -> Option<u32> {
        self.tokens.iter().position(|t| &*t.text == text).and_then(|i| u32::try_from(i).ok())
    }
}
