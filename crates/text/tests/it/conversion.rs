//! Folders to GGUF metadata and back.

use allod_formats::{Gguf, WeightSource};
use allod_text::tokenizer::{to_folder, to_gguf};
use allod_text::{Role, Special, Templates, Tokenizer};
use serde_json::json;

#[test]
fn gpt2_gives_the_keys_of_its_gguf() {
    let Some(data) = allod_testkit::data() else { return };
    let meta = to_gguf(&data.join("tokenizer/reftests/models/gpt2")).unwrap();
    let file = Gguf::open(data.join("tokenizer/ggml-vocab-gpt-2.gguf")).unwrap();
    for key in ["model", "pre", "tokens", "token_type", "merges"] {
        let key = format!("tokenizer.ggml.{key}");
        assert!(meta.get(&key) == file.metadata().get(&key), "{key}");
    }
}

#[test]
fn bert_gives_the_tokens_of_its_gguf() {
    let Some(data) = allod_testkit::data() else { return };
    let meta = to_gguf(&data.join("tokenizer/reftests/models/bert-base-uncased")).unwrap();
    let file = Gguf::open(data.join("tokenizer/ggml-vocab-bert-bge.gguf")).unwrap();
    for key in ["model", "pre", "tokens", "cls_token_id", "seperator_token_id", "mask_token_id"] {
        let key = format!("tokenizer.ggml.{key}");
        assert!(meta.get(&key) == file.metadata().get(&key), "{key}");
    }
}

#[test]
fn tinystories_encodes_the_same() {
    let Some(data) = allod_testkit::data() else { return };
    let folder = data.join("weights/tinystories656k");
    let (ours, meta) = (Tokenizer::from_folder(&folder).unwrap(), to_gguf(&folder).unwrap());
    assert_eq!(ours.special(Role::Eos), Some(2));
    assert_eq!(ours.stop_tokens(), [2]);
    let back = Tokenizer::from_gguf(&meta).unwrap();
    let book = std::fs::read_to_string(data.join("tokenizer/war-and-peace.txt")).unwrap();
    for special in [Special::NONE, Special::ADD] {
        assert_eq!(ours.encode(&book, special).unwrap(), back.encode(&book, special).unwrap());
    }
    assert_eq!((back.stop_tokens(), back.add_bos(), back.add_eos()), (ours.stop_tokens(), true, false));
}

#[test]
fn what_gguf_cannot_say_is_refused() {
    let folder = std::env::temp_dir().join(format!("allod-text-conversion-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let mut file = json!({
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "x+y"}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false},
        ]},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
    });
    let mut convert = |pointer: &str, value| {
        *file.pointer_mut(pointer).unwrap() = value;
        std::fs::write(folder.join("tokenizer.json"), file.to_string()).unwrap();
        to_gguf(&folder)
    };
    let message = convert("/model/type", json!("BPE")).unwrap_err().to_string();
    assert!(message.contains("a way of cutting by [\"x+y\"]"), "{message}");
    let digits =
        json!([{"type": "Digits", "individual_digits": true}, {"type": "ByteLevel", "add_prefix_space": false}]);
    let meta = convert("/pre_tokenizer/pretokenizers", digits).unwrap();
    assert_eq!(meta.str("tokenizer.ggml.pre"), Some("starcoder"));
    let lowercase = json!({"a": 0, "b": 1, "ab": 2, "A": 3});
    convert("/model/vocab", lowercase).unwrap();
    let mut file: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("tokenizer.json")).unwrap()).unwrap();
    file["normalizer"] = json!({"type": "Lowercase"});
    std::fs::write(folder.join("tokenizer.json"), file.to_string()).unwrap();
    let message = to_gguf(&folder).unwrap_err().to_string();
    assert!(message.contains("as this one does"), "{message}");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn every_vocabulary_comes_back_from_a_folder() {
    let Some(data) = allod_testkit::data() else { return };
    let folder = std::env::temp_dir().join(format!("allod-text-folder-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let book = std::fs::read_to_string(data.join("tokenizer/war-and-peace.txt")).unwrap();
    let mut texts = vec![book[..book.floor_char_boundary(5_000)].to_owned()];
    let mut checked = 0;
    for entry in std::fs::read_dir(data.join("tokenizer")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "gguf") {
            continue;
        }
        let file = Gguf::open(&path).unwrap();
        let original = Tokenizer::from_gguf(file.metadata()).unwrap();
        assert_eq!(to_folder(file.metadata(), &folder).unwrap().len(), 3, "{}", path.display());
        let back = Tokenizer::from_folder(&folder).unwrap();
        texts.truncate(1);
        texts.push(std::fs::read_to_string(format!("{}.inp", path.display())).unwrap());
        for text in &texts {
            for (parse, add) in [(true, true), (true, false), (false, false)] {
                let special = Special { parse, add };
                let ids = original.encode(text, special).unwrap();
                assert_eq!(back.encode(text, special).unwrap(), ids, "{} {special:?}", path.display());
                assert_eq!(back.decode(&ids, true), original.decode(&ids, true), "{}", path.display());
            }
        }
        for role in [Role::Bos, Role::Eos, Role::Unk, Role::Pad, Role::Cls, Role::Sep, Role::Mask] {
            assert_eq!(back.special(role), original.special(role), "{} {role:?}", path.display());
        }
        assert_eq!(back.stop_tokens(), original.stop_tokens(), "{}", path.display());
        assert_eq!(Templates::from_folder(&folder).unwrap(), Templates::from_gguf(file.metadata()));
        checked += 1;
    }
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(checked, 10);
}
