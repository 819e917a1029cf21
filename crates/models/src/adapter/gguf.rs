//! Adapters as llama.cpp's converter writes them: `general.type` adapter, `adapter.type` lora, and for each weight
//! `NAME.lora_a` and `NAME.lora_b` in the layout of the base's GGUF file.

use super::{key, numbers, transposed};
use crate::Error;
use allod_formats::{Gguf, WeightSource};
use allod_plan::{Delta, Lora};
use std::path::Path;

pub(super) fn open(path: &Path, base: &dyn WeightSource) -> Result<Lora, Error> {
    let file = Gguf::open(path)?;
    let meta = file.metadata();
    for (name, expected) in [("general.type", "adapter"), ("adapter.type", "lora")] {
        match meta.str(name) {
            Some(found) if found == expected => {}
            found => return Err(key(path, name, expected, found.unwrap_or("nothing"))),
        }
    }
    let (own, of_base) = (meta.str("general.architecture"), base.metadata().str("general.architecture"));
    if own != of_base {
        let expected = format!("the base model's, {}", of_base.unwrap_or("none"));
        return Err(key(path, "general.architecture", &expected, own.unwrap_or("nothing")));
    }
    let alpha = meta.float("adapter.lora.alpha").unwrap_or(0.0);
    let mut adapter = Lora::default();
    let names = file.names();
    for name in &names {
        let Some(weight) = name.strip_suffix(".lora_a") else {
            if name.strip_suffix(".lora_b").is_none_or(|weight| !names.contains(&format!("{weight}.lora_a"))) {
                return Err(key(path, name, "a tensor NAME.lora_a, with NAME.lora_b beside it", "this one alone"));
            }
            continue;
        };
        let (a, b) = (file.tensor(name)?, file.tensor(&format!("{weight}.lora_b"))?);
        let (first, second, rank) = match (&a.shape[..], &b.shape[..]) {
            (&[first, second], &[_, rank]) => (first, second, rank),
            (&[experts, first, second], &[same, _, rank]) if experts == same => (first, second, rank),
            _ => {
                let found = format!("{:?} and {:?}", a.shape, b.shape);
                return Err(key(path, weight, "two matrices, or two stacks of as many", found));
            }
        };
        // The table is read row by row, so its A is stored by token.
        let by_token = weight == "token_embd.weight" && second == rank;
        let values = numbers(name, &a)?;
        let values = if by_token { transposed(&values, second) } else { values };
        if rank == 0 || rank != if by_token { second } else { first } {
            return Err(key(path, weight, "matrices of one rank", format!("{:?} and {:?}", a.shape, b.shape)));
        }
        let scale = if alpha == 0.0 { 1.0 } else { alpha / rank as f32 };
        let b = numbers(weight, &b)?;
        let delta = Delta { rank, a: values.into(), b: b.into(), scale, magnitude: None };
        adapter.deltas.insert(weight.to_owned(), delta);
    }
    if adapter.deltas.is_empty() {
        return Err(key(path, "tensors", "pairs NAME.lora_a and NAME.lora_b", "none"));
    }
    Ok(adapter)
}
