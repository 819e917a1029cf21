//! Split sets of which something is missing, mixed up or false.

use super::{Says, check, malformed, unsupported};
use allod_formats::{
    Gguf, Metadata, TensorInfo, Value, WeightSource,
    gguf::{self, Layout, Split},
};
use allod_tensor::{Bytes, DType};
use std::{
    fs,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// Three files with a tensor each.
fn sound(folder: &Path) -> Vec<PathBuf> {
    let info = TensorInfo { dtype: DType::F32, shape: vec![8] };
    let infos = ["a", "b", "c"].map(|n| (n.to_owned(), info.clone()));
    let mut metadata = Metadata::default();
    metadata.set("general.architecture", "llama");
    let layout = Layout { split: Split::Tensors(1), ..Layout::default() };
    let mut writer = gguf::Writer::create(folder.join("m.gguf"), &metadata, infos, &layout).unwrap();
    for name in ["a", "b", "c"] {
        writer.append(name, &[0; 32]).unwrap();
    }
    writer.finish().unwrap()
}

/// Writes one part again with a key or a tensor name changed.
fn change(part: &Path, key: &str, value: impl Into<Value>, name: &str) {
    let model = Gguf::open_part(part).unwrap();
    let mut metadata = model.metadata().clone();
    metadata.set(key, value);
    let info = model.infos().next().unwrap().1.clone();
    let mut writer = gguf::Writer::create(part, &metadata, [(name.to_owned(), info)], &Layout::default()).unwrap();
    writer.append(name, &[0; 32]).unwrap();
    writer.finish().unwrap();
}

/// What happens to the set, and which part (0, 1, 2) the error is about.
type Kind = (&'static str, fn(&[PathBuf]), usize, Says);

#[rustfmt::skip]
const KINDS: &[Kind] = &[
    ("part missing", |p| fs::remove_file(&p[1]).unwrap(), 0, malformed("part 2 of 3", "m-00002-of-00003.gguf", "none of that name")),
    ("part in another's place", |p| fs::write(&p[1], fs::read(&p[2]).unwrap()).unwrap(), 1, malformed("split.no", "1", "U16(2)")),
    ("part of another set", |p| change(&p[2], "split.count", 4u16, "c"), 2, malformed("split.count", "3", "U16(4)")),
    ("count that is no number", |p| change(&p[0], "split.count", "three", "a"), 0, malformed("split.count", "a number of files", "three")),
    ("negative count", |p| change(&p[0], "split.count", -3i32, "a"), 0, malformed("split.count", "a number of files", "-3")),
    ("count beyond 16 bits", |p| change(&p[0], "split.count", 65536u32, "a"), 0, malformed("split.count", "a number of files", "65536")),
    ("name for another count", |p| change(&p[0], "split.count", 2u16, "a"), 0, malformed("file name", "-00001-of-00002.gguf", "m-00001-of-00003.gguf")),
    ("tensor missing", |p| change(&p[0], "split.tensors.count", 4i32, "a"), 0, malformed("split.tensors.count", "4", "3 in all parts")),
    ("tensor in two parts", |p| change(&p[2], "split.no", 2u16, "a"), 0, malformed("tensor \"a\"", "every tensor in one part", "in two")),
    ("part that is damaged", |p| fs::write(&p[2], "GGUF").unwrap(), 2, malformed("version", "4 bytes", "0 bytes")),
];

#[test]
fn every_kind_is_refused_with_a_reason() {
    for (kind, mutate, about, says) in KINDS {
        let folder = TempDir::new().unwrap();
        let parts = sound(folder.path());
        assert_eq!(Gguf::open(&parts[1]).unwrap().names(), ["a", "b", "c"]);
        mutate(&parts);
        check(kind, &parts[*about], Gguf::open(&parts[0]), says);
    }
}

#[test]
fn a_renamed_part_is_told_its_name() {
    let folder = TempDir::new().unwrap();
    let renamed = folder.path().join("renamed.gguf");
    fs::copy(&sound(folder.path())[0], &renamed).unwrap();
    let says = malformed("file name", "ends in -00001-of-00003.gguf", "renamed.gguf");
    check("renamed part", &renamed, Gguf::open(&renamed), &says);
}

#[test]
fn a_part_in_memory_is_not_a_model() {
    let folder = TempDir::new().unwrap();
    let bytes = Bytes::from(fs::read(&sound(folder.path())[0]).unwrap());
    let says = unsupported("split.count", "a whole model", "1 of 3 parts");
    check("part in memory", Path::new("memory"), Gguf::from_bytes(bytes, "memory"), &says);
}
