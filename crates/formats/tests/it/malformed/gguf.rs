//! One GGUF file with one thing wrong.

use super::{Says, check, malformed, unsupported};
use allod_formats::{Gguf, WeightSource};
use std::path::Path;

/// A GGUF file in pieces that can be set to anything, sound or not.
struct Raw {
    magic: [u8; 4],
    version: u32,
    tensor_count: Option<u64>,
    key_count: Option<u64>,
    keys: Vec<RawKey>,
    tensors: Vec<RawTensor>,
    data: Vec<u8>,
    /// Bytes to keep of the finished file.
    keep: Option<usize>,
}

struct RawKey {
    length: Option<u64>,
    name: Vec<u8>,
    kind: u32,
    value: Vec<u8>,
}

struct RawTensor {
    name: Vec<u8>,
    axes: Option<u32>,
    sizes: Vec<u64>,
    kind: u32,
    offset: u64,
}

fn key(name: &str, kind: u32, value: impl Into<Vec<u8>>) -> RawKey {
    RawKey { length: None, name: name.into(), kind, value: value.into() }
}

/// A string as it stands in the file, with a length of its own choosing.
fn text(length: u64, bytes: &[u8]) -> Vec<u8> {
    [&length.to_le_bytes()[..], bytes].concat()
}

/// An array as it stands in the file.
fn array(kind: u32, length: u64, bytes: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &length.to_le_bytes(), bytes].concat()
}

/// The sound file that every kind starts from: three keys, two tensors.
fn sound() -> Raw {
    let tensor = |name: &str, offset| RawTensor { name: name.into(), axes: None, sizes: vec![32, 2], kind: 2, offset };
    Raw {
        magic: *b"GGUF",
        version: 3,
        tensor_count: None,
        key_count: None,
        keys: vec![
            key("general.architecture", 8, text(5, b"llama")),
            key("count", 4, 7u32.to_le_bytes()),
            key("words", 9, array(8, 2, &[text(1, b"a"), text(2, b"bc")].concat())),
        ],
        tensors: vec![tensor("a", 0), tensor("b", 64)],
        data: vec![1; 128],
        keep: None,
    }
}

impl Raw {
    fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(self.magic);
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.key_count.unwrap_or(self.keys.len() as u64).to_le_bytes());
        for k in &self.keys {
            out.extend(text(k.length.unwrap_or(k.name.len() as u64), &k.name));
            out.extend(k.kind.to_le_bytes());
            out.extend(&k.value);
        }
        for t in &self.tensors {
            out.extend(text(t.name.len() as u64, &t.name));
            out.extend(t.axes.unwrap_or(t.sizes.len() as u32).to_le_bytes());
            out.extend(t.sizes.iter().flat_map(|n| n.to_le_bytes()));
            out.extend(t.kind.to_le_bytes());
            out.extend(t.offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(&self.data);
        out.truncate(self.keep.unwrap_or(usize::MAX));
        out
    }
}

type Kind = (&'static str, fn(&mut Raw), Says);

fn starts_with(raw: &mut Raw, bytes: &[u8; 4]) {
    raw.magic = *bytes;
}

#[rustfmt::skip]
const START: &[Kind] = &[
    ("empty file", |r| r.keep = Some(0), malformed("magic", "4 bytes at offset 0", "0 bytes before the end")),
    ("another magic", |r| starts_with(r, b"ABCD"), malformed("magic", "\"GGUF\"", "ABCD")),
    ("magic backwards", |r| starts_with(r, b"FUGG"), malformed("magic", "\"GGUF\"", "big-endian")),
    ("before GGUF", |r| starts_with(r, b"tjgg"), malformed("magic", "\"GGUF\"", "from before GGUF")),
    ("archive", |r| starts_with(r, b"PK\x03\x04"), malformed("magic", "\"GGUF\"", "ZIP archive")),
    ("Git LFS pointer", |r| starts_with(r, b"vers"), malformed("magic", "\"GGUF\"", "Git LFS pointer")),
    ("web page", |r| starts_with(r, b"<!DO"), malformed("magic", "\"GGUF\"", "web page")),
    ("nothing but magic", |r| r.keep = Some(4), malformed("version", "4 bytes at offset 4", "0 bytes")),
    ("version 0", |r| r.version = 0, unsupported("version", "2 or 3", "0")),
    ("version 1", |r| r.version = 1, unsupported("version", "2 or 3", "1")),
    ("version of the future", |r| r.version = 4, unsupported("version", "2 or 3", "4")),
    ("big-endian", |r| r.version = 3 << 24, unsupported("version", "2 or 3", "3 with its bytes swapped")),
    ("tensors by the quintillion", |r| r.tensor_count = Some(1 << 61), malformed("number of tensors", "at most", "2305843009213693952")),
    ("keys by the quintillion", |r| r.key_count = Some(1 << 61), malformed("number of keys", "at most", "2305843009213693952")),
    ("one key too many", |r| r.key_count = Some(4), malformed("name of tensor 0", "at most 1 GiB", "562949953421312 bytes")),
    ("one tensor too many", |r| r.tensor_count = Some(3), malformed("name of tensor 2", "at most 1 GiB", "72340172821233664 bytes")),
];

#[rustfmt::skip]
const KEYS: &[Kind] = &[
    ("key longer than the file", |r| r.keys[1].length = Some(1 << 20), malformed("key 1", "1048576 bytes", "before the end")),
    ("key of 2^64 bytes", |r| r.keys[1].length = Some(u64::MAX), malformed("key 1", "at most 1 GiB", "18446744073709551615 bytes")),
    ("key not in UTF-8", |r| r.keys[1].name[2] = 0xff, malformed("key 1", "UTF-8", "0xff at position 2")),
    ("key without a name", |r| r.keys[1].name.clear(), malformed("key 1", "a name", "an empty string")),
    ("key twice", |r| r.keys[1] = key("words", 0, [1]), malformed("key \"words\"", "every key once", "twice")),
    ("value of unknown type", |r| r.keys[1].kind = 13, malformed("key \"count\": value type", "0 to 12", "13")),
    ("file ends within a value", |r| r.keep = Some(24 + 45 + 17 + 3), malformed("key \"count\"", "4 bytes", "3 bytes")),
    ("string longer than the file", |r| r.keys[0].value = text(9999, b"x"), malformed("architecture", "9999 bytes", "before the end")),
    ("string beyond 1 GiB", |r| r.keys[0].value = text((1 << 30) + 1, b"x"), malformed("architecture", "at most 1 GiB", "1073741825")),
    ("string not in UTF-8", |r| r.keys[0].value = text(3, b"ab\xc0"), malformed("architecture", "UTF-8", "0xc0 at position 2")),
    ("boolean of 2", |r| r.keys[1] = key("yes", 7, [2]), malformed("key \"yes\"", "0 or 1", "2")),
    ("array of unknown type", |r| r.keys[2].value = array(99, 1, &[0; 8]), malformed("words\": element type", "0 to 12", "99")),
    ("array of arrays", |r| r.keys[2].value = array(9, 1, &array(0, 1, &[0])), malformed("element type", "other than 9", "an array of arrays")),
    ("array beyond 1 Gi", |r| r.keys[2].value = array(0, (1 << 30) + 1, &[]), malformed("words", "at most 1 Gi", "1073741825")),
    ("array of 2^64 f64", |r| r.keys[2].value = array(12, 1 << 30, &[]), malformed("words", "8589934592 bytes", "before the end")),
    ("array longer than the file", |r| r.keys[2].value = array(5, 1 << 20, &[0; 4]), malformed("words", "4194304 bytes", "before the end")),
    ("more strings than fit", |r| r.keys[2].value = array(8, 1 << 29, &[]), malformed("words", "at most", "536870912")),
    ("string in array not in UTF-8", |r| r.keys[2].value = array(8, 1, &text(1, b"\xff")), malformed("words\"[0]", "UTF-8", "0xff")),
    ("boolean in array of 7", |r| r.keys[2].value = array(7, 2, &[1, 7]), malformed("words", "0 or 1", "7")),
    ("alignment 0", |r| r.keys[1] = key("general.alignment", 4, 0u32.to_le_bytes()), malformed("general.alignment", "a power of two", "U32(0)")),
    ("alignment 24", |r| r.keys[1] = key("general.alignment", 4, 24u32.to_le_bytes()), malformed("general.alignment", "a power of two", "U32(24)")),
    ("alignment in 64 bits", |r| r.keys[1] = key("general.alignment", 10, 32u64.to_le_bytes()), malformed("general.alignment", "as u32", "U64(32)")),
    ("alignment beyond the file", |r| r.keys[1] = key("general.alignment", 4, (1u32 << 31).to_le_bytes()), malformed("tensor \"a\"", "up to offset 2147483684", "a file of")),
];

#[rustfmt::skip]
const TENSORS: &[Kind] = &[
    ("name too long", |r| r.tensors[1].name = vec![b'n'; 64], malformed("tensor \"nnn", "at most 63 bytes", "64")),
    ("name not in UTF-8", |r| r.tensors[1].name = vec![0x80], malformed("name of tensor 1", "UTF-8", "0x80")),
    ("tensor twice", |r| r.tensors[1].name = b"a".into(), malformed("tensor \"a\"", "every tensor once", "twice")),
    ("five axes", |r| r.tensors[0].sizes = vec![32, 1, 1, 1, 2], malformed("tensor \"a\": number of axes", "at most 4", "5")),
    ("four billion axes", |r| r.tensors[0].axes = Some(u32::MAX), malformed("number of axes", "at most 4", "4294967295")),
    ("withdrawn type 4", |r| r.tensors[0].kind = 4, unsupported("tensor \"a\": type", "in use", "4, Q4_2, which was withdrawn")),
    ("withdrawn type 31", |r| r.tensors[0].kind = 31, unsupported("tensor \"a\": type", "in use", "Q4_0_4_4")),
    ("withdrawn type 38", |r| r.tensors[0].kind = 38, unsupported("tensor \"a\": type", "in use", "IQ4_NL_8_8")),
    ("type of a fork", |r| r.tensors[1].kind = 139, unsupported("tensor \"b\": type", "in use", "ik_llama.cpp")),
    ("type of the future", |r| r.tensors[1].kind = 43, unsupported("tensor \"b\": type", "in use", "43, which is unknown")),
    ("row that cuts a block", |r| r.tensors[0].sizes = vec![33, 2], malformed("tensor \"a\": shape", "whole Q4_0 blocks of 32", "[2, 33]")),
    ("elements that overflow", |r| r.tensors[0].sizes = vec![1 << 33, 1 << 33], malformed("tensor \"a\": shape", "below 2^63", "[8589934592, 8589934592]")),
    ("bytes that overflow a sign", |r| r.tensors[0] = RawTensor { name: b"a".into(), axes: None, sizes: vec![1 << 61], kind: 0, offset: 0 }, malformed("tensor \"a\": shape", "below 2^63", "[2305843009213693952]")),
    ("negative axis", |r| r.tensors[0].sizes = vec![32, u64::MAX], malformed("tensor \"a\": shape", "below 2^63", "18446744073709551615")),
    ("sizes whose sum overflows", |r| r.tensors.iter_mut().for_each(|t| (t.kind, t.sizes) = (24, vec![(1 << 63) - 1])), malformed("tensor \"a\"", "9223372036854775807 bytes of I8", "a file of")),
    ("gap", |r| r.tensors[1].offset = 96, malformed("tensor \"b\": offset", "64, right after the one before", "96")),
    ("overlap", |r| r.tensors[1].offset = 32, malformed("tensor \"b\": offset", "64, right after the one before", "32")),
    ("other order", |r| (r.tensors[0].offset, r.tensors[1].offset) = (64, 0), malformed("tensor \"a\": offset", "0, right", "64")),
    ("offset of 2^64 - 1", |r| r.tensors[1].offset = u64::MAX, malformed("tensor \"b\": offset", "64", "18446744073709551615")),
    ("data cut off", |r| r.data.truncate(99), malformed("tensor \"b\"", "36 bytes of Q4_0 up to offset", "a file of")),
    ("no data at all", |r| r.data.clear(), malformed("tensor \"a\"", "36 bytes of Q4_0", "a file of")),
    ("something appended", |r| r.data.push(0), malformed("end of the file", "the file to end at", "bytes")),
    ("end cut within the padding", |r| r.data.truncate(101), malformed("end of the file", "the file to end at", "bytes")),
    ("file ends within a tensor entry", |r| r.keep = Some(170), malformed("tensor", "bytes at offset", "before the end")),
];

#[test]
fn the_sound_file_is_sound() {
    for keep in [None, Some(100)] {
        let mut raw = sound();
        raw.data.truncate(keep.unwrap_or(128));
        let model = Gguf::from_bytes(raw.bytes().into(), "sound").unwrap();
        assert_eq!((model.names().len(), model.metadata().len(), model.padded_end()), (2, 3, keep.is_none()));
    }
    let mut raw = sound();
    raw.version = 2;
    assert_eq!(Gguf::from_bytes(raw.bytes().into(), "sound").unwrap().version(), 2);
}

#[test]
fn every_kind_is_refused_with_a_reason() {
    let path = Path::new("models/x.gguf");
    for (kind, mutate, says) in START.iter().chain(KEYS).chain(TENSORS) {
        let mut raw = sound();
        mutate(&mut raw);
        check(kind, path, Gguf::from_bytes(raw.bytes().into(), path), says);
    }
}

#[test]
fn long_names_and_control_characters_stay_out_of_messages() {
    let mut raw = sound();
    raw.keys[1] = key(&"\u{1b}[31m".repeat(100_000), 13, []);
    let message = Gguf::from_bytes(raw.bytes().into(), "x").unwrap_err().to_string();
    assert!(message.len() < 400 && message.contains('…') && !message.contains('\u{1b}'), "{message}");
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let whole = sound().bytes();
    // The last tensor ends at 100 bytes of data; the rest is padding.
    for length in 0..whole.len() - 28 {
        assert!(Gguf::from_bytes(whole[..length].to_vec().into(), "cut").is_err(), "{length} bytes");
    }
}

#[test]
fn what_cannot_be_opened_is_named() {
    let folder = tempfile::TempDir::new().unwrap();
    let absent = folder.path().join("absent.gguf");
    for path in [absent.as_path(), folder.path()] {
        let message = Gguf::open(path).unwrap_err().to_string();
        assert!(message.starts_with(&path.display().to_string()), "{message}");
    }
}
