//! What is written comes back, byte for byte where the format allows it, and only when it is complete.

use allod_formats::{
    Array, Error, Gguf, Metadata, Safetensors, TensorInfo, WeightSource, codec,
    gguf::{self, Layout, Split},
    safetensors::{self, Dtype},
};
use allod_tensor::DType;
use indexmap::IndexMap;
use std::{fs, path::Path};
use tempfile::TempDir;

/// Every value type, every array type, awkward strings.
pub(crate) fn metadata() -> Metadata {
    let mut m = Metadata::default();
    m.set("general.architecture", "llama");
    m.set("u8", 255u8);
    m.set("i8", -128i8);
    m.set("u16", 65535u16);
    m.set("i16", -32768i16);
    m.set("u32", u32::MAX);
    m.set("i32", i32::MIN);
    m.set("f32", -0.0f32);
    m.set("bool", true);
    m.set("text", "snow ☃ and a zero \0");
    m.set("empty", "");
    m.set("u64", u64::MAX);
    m.set("i64", i64::MIN);
    m.set("f64", f64::MIN_POSITIVE);
    m.set("array.u8", Array::U8(vec![1, 2, 3]));
    m.set("array.i8", Array::I8(vec![-1]));
    m.set("array.u16", Array::U16(vec![7]));
    m.set("array.i16", Array::I16(vec![]));
    m.set("array.u32", Array::U32(vec![9, 8]));
    m.set("array.i32", Array::I32(vec![-9]));
    m.set("array.f32", Array::F32(vec![1.5, f32::INFINITY]));
    m.set("array.bool", Array::Bool(vec![true, false]));
    m.set("array.string", vec![String::new(), "▁the".into()]);
    m.set("array.u64", Array::U64(vec![1 << 60]));
    m.set("array.i64", Array::I64(vec![-1]));
    m.set("array.f64", Array::F64(vec![0.1]));
    m
}

/// One tensor of every type, a scalar, one without elements.
pub(crate) fn tensors() -> Vec<(String, TensorInfo, Vec<u8>)> {
    let mut list: Vec<_> = DType::ALL.iter().map(|&d| (format!("t.{d}"), d, vec![3, 256])).collect();
    list.push(("scalar".into(), DType::F32, vec![]));
    list.push(("nothing".into(), DType::Q4_0, vec![0, 32]));
    list.push(("four".into(), DType::I8, vec![2, 1, 3, 5]));
    let fill = |(i, (name, dtype, shape)): (usize, (String, DType, Vec<usize>))| {
        let bytes = dtype.bytes_for(shape.iter().product()).unwrap();
        (name, TensorInfo { dtype, shape }, (0..bytes).map(|j| (i * 31 + j * 7) as u8).collect())
    };
    list.into_iter().enumerate().map(fill).collect()
}

fn infos() -> impl Iterator<Item = (String, TensorInfo)> {
    tensors().into_iter().map(|(name, info, _)| (name, info))
}

pub(crate) fn write(path: &Path, metadata: &Metadata, layout: &Layout) -> Vec<std::path::PathBuf> {
    let mut writer = gguf::Writer::create(path, metadata, infos(), layout).unwrap();
    for (name, _, bytes) in tensors() {
        // In pieces, as a converter would.
        bytes.chunks(1000).for_each(|piece| writer.append(&name, piece).unwrap());
    }
    writer.finish().unwrap()
}

fn assert_holds_everything(model: &dyn WeightSource) {
    for (name, info, bytes) in tensors() {
        let tensor = model.tensor(&name).unwrap();
        assert_eq!((tensor.dtype, &tensor.shape, &tensor.data[..]), (info.dtype, &info.shape, &bytes[..]), "{name}");
    }
    assert_eq!(model.names(), infos().map(|t| t.0).collect::<Vec<_>>());
}

fn copy_is_equal(path: &Path, folder: &TempDir) {
    let (part, copy) = (Gguf::open_part(path).unwrap(), folder.path().join("copy.gguf"));
    gguf::save(&part, &copy, &Layout::of(&part)).unwrap();
    assert!(fs::read(path).unwrap() == fs::read(copy).unwrap(), "{path:?}");
}

#[test]
fn real_files_come_back_byte_for_byte() {
    let Some(data) = allod_testkit::data() else { return };
    let folder = TempDir::new().unwrap();
    let mut count = 0;
    for place in ["tokenizer", "weights/stories260K"] {
        for file in fs::read_dir(data.join(place)).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|e| e == "gguf") {
                copy_is_equal(&path, &folder);
                count += 1;
            }
        }
    }
    assert_eq!(count, 11);
}

#[test]
fn every_value_and_tensor_type_comes_back() {
    let folder = TempDir::new().unwrap();
    for (alignment, padded_end) in
        [(None, true), (None, false), (Some(1u32), true), (Some(4096), true), (Some(64), false)]
    {
        let (path, mut metadata) = (folder.path().join("all.gguf"), metadata());
        if let Some(n) = alignment {
            metadata.set("general.alignment", n);
        }
        let layout = Layout { padded_end, ..Layout::default() };
        assert_eq!(write(&path, &metadata, &layout), std::slice::from_ref(&path));
        let model = Gguf::open(&path).unwrap();
        assert_eq!((model.version(), model.alignment()), (3, alignment.unwrap_or(32) as usize));
        assert_eq!(model.metadata(), &metadata);
        assert_holds_everything(&model);
        copy_is_equal(&path, &folder);
    }
}

#[test]
fn split_sets_open_as_one_from_any_part() {
    let folder = TempDir::new().unwrap();
    let size: usize = tensors().iter().map(|t| t.2.len().next_multiple_of(32)).sum();
    let layouts = [
        (Split::Tensors(7), false, tensors().len().div_ceil(7)),
        (Split::Tensors(20), true, 3),
        (Split::Bytes(1), false, tensors().len()),
        (Split::Bytes(size as u64), true, 1),
    ];
    for (split, bare_first, count) in layouts {
        let layout = Layout { split, bare_first, ..Layout::default() };
        let parts = write(&folder.path().join("set.gguf"), &metadata(), &layout);
        assert_eq!(parts.len(), count, "{split:?}");
        for (i, part) in parts.iter().enumerate().filter(|_| count > 1) {
            let name = format!("set-{:05}-of-{count:05}.gguf", i + 1);
            assert_eq!(part.file_name().unwrap().to_str(), Some(name.as_str()));
            copy_is_equal(part, &folder);
        }
        for part in [&parts[0], &parts[count / 2], &parts[count - 1]] {
            let model = Gguf::open(part).unwrap();
            assert_holds_everything(&model);
            assert_eq!(model.metadata(), &metadata(), "split keys are gone");
            assert_eq!(model.paths().collect::<Vec<_>>(), parts);
        }
        if bare_first && count > 1 {
            assert!(Gguf::open_part(&parts[0]).unwrap().names().is_empty());
        }
    }
}

#[test]
fn the_keys_of_a_part_are_llama_cpps() {
    let folder = TempDir::new().unwrap();
    let layout = Layout { split: Split::Tensors(20), ..Layout::default() };
    let parts = write(&folder.path().join("set.gguf"), &metadata(), &layout);
    let second = Gguf::open_part(&parts[1]).unwrap();
    let keys: Vec<_> = second.metadata().iter().map(|(k, v)| format!("{k} {v:?}")).collect();
    assert_eq!(keys, ["split.no U16(1)", "split.count U16(2)", "split.tensors.count I32(38)"]);
}

#[test]
fn nothing_appears_before_the_end() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, "what stood there before").unwrap();
    let mut writer = gguf::Writer::create(&path, &metadata(), infos(), &Layout::default()).unwrap();
    let (name, _, bytes) = &tensors()[0];
    writer.append(name, bytes).unwrap();
    let error = writer.finish().unwrap_err().to_string();
    assert!(error.contains("tensor \"t.F16\": expected 1536 more bytes, got the end"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "what stood there before");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn the_writer_holds_its_caller_to_the_announcement() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.gguf");
    let info = |n: usize| TensorInfo { dtype: DType::F32, shape: vec![n] };
    let create = |tensors: Vec<(&str, TensorInfo)>| {
        let tensors = tensors.into_iter().map(|(n, i)| (n.to_owned(), i));
        gguf::Writer::create(&path, &Metadata::default(), tensors, &Layout::default())
    };
    let says = |error: Error, what: &str| assert!(error.to_string().contains(what), "{error} does not say {what}");
    let mut writer = create(vec![("a", info(2)), ("b", info(1))]).unwrap();
    says(writer.append("b", &[0; 4]).unwrap_err(), "tensor \"a\": expected 8 more bytes, got tensor \"b\"");
    says(writer.append("a", &[0; 9]).unwrap_err(), "tensor \"a\": expected 8 bytes, got 9 or more");
    writer.append("a", &[0; 8]).unwrap();
    writer.append("b", &[0; 4]).unwrap();
    says(writer.append("a", &[0; 4]).unwrap_err(), "tensor \"a\": expected the order announced");
    says(create(vec![("a", info(1)), ("a", info(1))]).unwrap_err(), "expected every tensor once");
    says(create(vec![(&"n".repeat(64), info(1))]).unwrap_err(), "a name of at most 63 bytes");
    let five = TensorInfo { dtype: DType::F32, shape: vec![1; 5] };
    says(create(vec![("a", five)]).unwrap_err(), "at most 4 axes");
    let cut = TensorInfo { dtype: DType::Q4_K, shape: vec![255] };
    says(create(vec![("a", cut)]).unwrap_err(), "rows of whole Q4_K blocks of 256");
    says(create(vec![("a", info(1 << 60)), ("b", info(1 << 60))]).unwrap_err(), "below 2^63 bytes together");
    let mut bad = Metadata::default();
    bad.set("general.alignment", 24u32);
    says(gguf::Writer::create(&path, &bad, [], &Layout::default()).unwrap_err(), "a power of two");
}

fn safetensors_entries() -> Vec<(String, Dtype, Vec<usize>)> {
    vec![
        ("model.embed".into(), Dtype::F32, vec![7, 3]),
        ("odd \"name\"\n☃".into(), Dtype::BF16, vec![5]),
        ("blocks".into(), Dtype::U8, vec![2, 3, 4, 5, 1]),
        ("float4".into(), Dtype::F4, vec![2, 3]),
        ("none".into(), Dtype::F8_E4M3, vec![0, 4]),
        ("scalar".into(), Dtype::I64, vec![]),
    ]
}

#[test]
fn safetensors_come_back_whole_and_in_shards() {
    let folder = TempDir::new().unwrap();
    let text = IndexMap::from([("format".to_owned(), "pt".to_owned()), ("who".to_owned(), "☃".to_owned())]);
    for (shard_bytes, files) in [(None, 1), (Some(84), 5), (Some(1), 7)] {
        let path = folder.path().join("model.safetensors");
        let _ = fs::remove_file(&path);
        let mut writer = safetensors::Writer::create(&path, safetensors_entries(), &text, shard_bytes).unwrap();
        let bytes = |i: usize, n: usize| (0..n).map(|j| (i * 50 + j) as u8).collect::<Vec<u8>>();
        for (i, (name, dtype, shape)) in safetensors_entries().iter().enumerate() {
            writer.append(name, &bytes(i, dtype.bytes_of(shape).unwrap())).unwrap();
        }
        let written = writer.finish().unwrap();
        assert_eq!(written.len(), files);
        let model = Safetensors::open(folder.path()).unwrap();
        assert_eq!(model.metadata(), &text);
        let names: Vec<_> = model.entries().map(|(n, e)| (n.to_owned(), e.dtype, e.shape.clone())).collect();
        assert_eq!(names, safetensors_entries());
        for (i, (name, dtype, shape)) in safetensors_entries().iter().enumerate() {
            assert_eq!(model.bytes(name).unwrap()[..], bytes(i, dtype.bytes_of(shape).unwrap())[..], "{name}");
        }
    }
}

#[test]
fn the_reference_reader_takes_our_safetensors_and_we_take_its() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("ours.safetensors");
    let text = IndexMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut writer = safetensors::Writer::create(&path, safetensors_entries(), &text, None).unwrap();
    for (name, dtype, shape) in safetensors_entries() {
        writer.append(&name, &vec![7; dtype.bytes_of(&shape).unwrap()]).unwrap();
    }
    writer.finish().unwrap();
    let file = fs::read(&path).unwrap();
    let theirs = ::safetensors::SafeTensors::deserialize(&file).unwrap();
    let ours = Safetensors::open(&path).unwrap();
    assert_eq!(theirs.len(), safetensors_entries().len());
    for (name, view) in theirs.iter() {
        assert_eq!(ours.bytes(name).unwrap()[..], *view.data(), "{name}");
        assert_eq!(ours.entry(name).unwrap().shape, view.shape());
    }
    let again = ::safetensors::serialize(theirs.tensors(), None).unwrap();
    let again = Safetensors::from_bytes(again.into(), "theirs").unwrap();
    for (name, entry) in ours.entries() {
        assert_eq!(again.entry(name).map(|e| (e.dtype, &e.shape)), Some((entry.dtype, &entry.shape)), "{name}");
        assert_eq!(again.bytes(name).unwrap()[..], ours.bytes(name).unwrap()[..]);
    }
}

#[test]
fn a_model_is_quantized_with_the_memory_of_one_tensor() {
    let Some(data) = allod_testkit::data() else { return };
    let folder = TempDir::new().unwrap();
    let source = Gguf::open(data.join("weights/stories260K/stories260K.gguf")).unwrap();
    let to = |info: &TensorInfo| {
        if info.shape.len() == 2 && info.shape[1].is_multiple_of(32) { DType::Q8_0 } else { DType::F32 }
    };
    let infos = source.infos().map(|(n, i)| (n.to_owned(), TensorInfo { dtype: to(i), shape: i.shape.clone() }));
    let path = folder.path().join("q8_0.gguf");
    let mut writer = gguf::Writer::create(&path, source.metadata(), infos, &Layout::default()).unwrap();
    for (name, info) in source.infos() {
        let tensor = source.tensor(name).unwrap();
        let (mut values, mut bytes) = (vec![0.0; tensor.len()], Vec::new());
        codec::decode(tensor.dtype, &tensor.data, &mut values).unwrap();
        codec::encode(to(info), &values, &mut bytes).unwrap();
        writer.append(name, &bytes).unwrap();
    }
    writer.finish().unwrap();
    let quantized = Gguf::open(&path).unwrap();
    let (a, b) = (source.tensor("blk.0.attn_q.weight").unwrap(), quantized.tensor("blk.0.attn_q.weight").unwrap());
    let (mut x, mut y) = (vec![0.0; a.len()], vec![0.0; b.len()]);
    codec::decode(a.dtype, &a.data, &mut x).unwrap();
    codec::decode(b.dtype, &b.data, &mut y).unwrap();
    let error: f32 = x.iter().zip(&y).map(|(p, q)| (p - q) * (p - q)).sum();
    let power: f32 = x.iter().map(|p| p * p).sum();
    assert!(error / power < 1e-4, "{}", error / power);
}
