//! Weights of folders in 8-bit floats (OCP 8-bit Floating Point Specification 1.0) with scales beside them: one for a
//! tensor, one for each row, or one for each block (128 × 128 in DeepSeek V3). They are read as plain numbers: GGUF has
//! no type for them. Where every scale is a power of two the product fits BF16 without rounding, else it is F32.

use super::{Hf, rebuild};
use crate::Error;
use allod_formats::{
    Safetensors, codec,
    safetensors::{Dtype, Entry},
};
use allod_tensor::{DType, Tensor};
use serde_json::Value as Json;
use std::collections::HashMap;

/// Rows and columns that share a scale, where the configuration does not say.
const BLOCK: [usize; 2] = [128, 128];

/// What is beside a weight `X`: scales as factors, in spite of what the first is called.
const SCALES: [&str; 2] = ["_scale_inv", "_scale"];

/// What is beside it that concerns activations only.
const ACTIVATIONS: [&str; 4] = [".input_scale", ".activation_scale", ".input_scale_ub", ".output_scale"];

/// The tensors of a folder that are 8-bit floats.
#[derive(Default)]
pub(super) struct Floats {
    weights: HashMap<String, Weight>,
}

struct Weight {
    /// The tensor of scales.
    scales: Option<String>,
    /// Rows and columns that share one.
    block: [usize; 2],
    /// What it is read as.
    dtype: DType,
}

/// Refuses what is quantized in a way that is not read.
pub(super) fn check(h: &mut Hf) {
    let Some(q) = h.get(&["quantization_config", "compression_config"]).cloned() else { return };
    let method = q.get("quant_method").and_then(Json::as_str).unwrap_or("unknown");
    let all_float8 = || {
        let groups = q.get("config_groups").and_then(Json::as_object).map(|g| g.values());
        groups.into_iter().flatten().all(|g| g["weights"]["type"] == "float" && g["weights"]["num_bits"] == 8)
    };
    let is_read = match method {
        "fp8" | "fbgemm_fp8" | "mxfp4" => true,
        "compressed-tensors" => all_float8(),
        _ => false,
    };
    if !is_read {
        let expected = "an unquantized model, 8-bit floats (fp8, compressed-tensors) or mxfp4; use the unquantized \
                        version of this model, or a GGUF file of it,";
        h.reject("quantization_config.quant_method", expected, method.to_owned());
    }
}

impl Floats {
    /// Finds them. `h` says how large blocks are.
    pub(super) fn find(files: &Safetensors, h: &Hf) -> Result<Floats, Error> {
        let block = h.get(&["quantization_config"]).and_then(|q| q.get("weight_block_size"));
        let size = |i: usize| block.and_then(|b| b.get(i)?.as_u64()?.try_into().ok()).filter(|&n: &usize| n > 0);
        let stated = [size(0).unwrap_or(BLOCK[0]), size(1).unwrap_or(BLOCK[1])];
        let mut weights = HashMap::new();
        for (name, entry) in files.entries().filter(|(_, e)| is_float8(e.dtype)) {
            let scales = SCALES.iter().map(|s| format!("{name}{s}")).find(|s| files.entry(s).is_some());
            let (mut block, mut dtype) = ([1, 1], DType::BF16);
            if let Some(s) = &scales {
                let values = factors(files, s)?;
                block =
                    shared(entry, &files.entry(s).map_or(vec![], |e| e.shape.clone()), stated).ok_or_else(|| {
                        odd(files, s, &format!("one scale, one a row or one for each {stated:?} of {:?}", entry.shape))
                    })?;
                // Powers of two: the significant bits of the product are those of the weight.
                if values.iter().any(|v| !(v.is_normal() && v.to_bits().trailing_zeros() >= 23)) {
                    dtype = DType::F32;
                }
            }
            weights.insert(name.to_owned(), Weight { scales, block, dtype });
        }
        Ok(Floats { weights })
    }

    /// What the tensor `name` is read as, if it is one of them.
    pub(super) fn dtype(&self, name: &str) -> Option<DType> {
        self.weights.get(name).map(|w| w.dtype)
    }

    /// True for a tensor that is read with one of them, or concerns activations only.
    pub(super) fn is_beside(&self, name: &str) -> bool {
        let scales = || SCALES.iter().filter_map(|s| name.strip_suffix(s)).any(|w| self.weights.contains_key(w));
        let stem = ACTIVATIONS.iter().find_map(|s| name.strip_suffix(s));
        scales() || stem.is_some_and(|s| self.weights.contains_key(&format!("{s}.weight")))
    }

    /// Its numbers.
    pub(super) fn read(&self, files: &Safetensors, name: &str) -> Result<Option<Tensor>, Error> {
        let (Some(w), Some(entry)) = (self.weights.get(name), files.entry(name)) else { return Ok(None) };
        let table = table(entry.dtype);
        let mut values: Vec<f32> = files.bytes(name)?.iter().map(|&b| table[usize::from(b)]).collect();
        if let Some(s) = &w.scales {
            scale(&mut values, &entry.shape, &factors(files, s)?, w.block);
        }
        let mut data = vec![];
        let fail = |source| Error::Codec { name: name.to_owned(), source };
        codec::encode(w.dtype, &values, &mut data).map_err(fail)?;
        rebuild(w.dtype, entry.shape.clone(), data).map(Some)
    }
}

/// Rows and columns that share a scale, if scales of this shape fit the weight.
fn shared(weight: &Entry, scales: &[usize], stated: [usize; 2]) -> Option<[usize; 2]> {
    let [outer @ .., rows, columns] = weight.shape.as_slice() else {
        return (scales.iter().product::<usize>() == 1).then_some([1, usize::MAX]);
    };
    let [rows, columns] = [(*rows).max(1), (*columns).max(1)];
    let blocks = [rows.div_ceil(stated[0]), columns.div_ceil(stated[1])];
    if scales.iter().product::<usize>() == 1 {
        return Some([outer.iter().product::<usize>() * rows, columns]);
    }
    match scales.strip_prefix(outer)? {
        s if s == blocks => Some(stated),
        [n] | [n, 1] if *n == rows => Some([1, columns]),
        [1, 1] | [1] => Some([rows, columns]),
        [a, b] if *a > 0 && *b > 0 && rows % a == 0 && columns % b == 0 => Some([rows / a, columns / b]),
        _ => None,
    }
}

/// Multiplies `values` `[…, rows, columns]` by the scale of their block.
fn scale(values: &mut [f32], shape: &[usize], scales: &[f32], [high, wide]: [usize; 2]) {
    let columns = shape.last().copied().unwrap_or(1).max(1);
    let rows = shape.iter().rev().nth(1).copied().unwrap_or(1).max(1);
    let (down, across) = (rows.div_ceil(high), columns.div_ceil(wide));
    for (r, row) in values.chunks_mut(columns).enumerate() {
        let line = if scales.len() == 1 { 0 } else { r / rows * down + r % rows / high };
        for (b, part) in row.chunks_mut(wide.min(columns)).enumerate() {
            let factor = scales.get(line * across + b).copied().unwrap_or(f32::NAN);
            part.iter_mut().for_each(|v| *v *= factor);
        }
    }
}

fn factors(files: &Safetensors, name: &str) -> Result<Vec<f32>, Error> {
    // Exponents alone (E8M0) are powers of two as well.
    if files.entry(name).is_some_and(|e| e.dtype == Dtype::F8_E8M0) {
        return Ok(files.bytes(name)?.iter().map(|&b| libm::exp2f(f32::from(b) - 127.0)).collect());
    }
    let t = files.tensor(name)?;
    codec::to_f32(&t).map_err(|source| Error::Codec { name: name.to_owned(), source })
}

fn odd(files: &Safetensors, name: &str, expected: &str) -> Error {
    let found = files.entry(name).map_or("none".into(), |e| format!("shape {:?}", e.shape));
    Error::Key { origin: files.origin(), key: name.to_owned(), expected: expected.to_owned(), found }
}

fn is_float8(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F8_E4M3 | Dtype::F8_E5M2)
}

/// The number behind each byte.
fn table(dtype: Dtype) -> [f32; 256] {
    let (mantissa, bias) = if dtype == Dtype::F8_E5M2 { (2, 15) } else { (3, 7) };
    std::array::from_fn(|byte| {
        let (sign, magnitude) = (if byte & 0x80 == 0 { 1.0 } else { -1.0 }, byte & 0x7f);
        let (exponent, fraction) = ((magnitude >> mantissa) as i32, (magnitude & ((1 << mantissa) - 1)) as f32);
        let unit = libm::exp2f((exponent.max(1) - bias - mantissa) as f32);
        let implied = if exponent > 0 { (1 << mantissa) as f32 } else { 0.0 };
        let value = match (dtype, magnitude) {
            // E4M3FN has no infinity and one NaN.
            (Dtype::F8_E4M3, 0x7f) => f32::NAN,
            (Dtype::F8_E5M2, 0x7c) => f32::INFINITY,
            (Dtype::F8_E5M2, 0x7d..) => f32::NAN,
            _ => (implied + fraction) * unit,
        };
        sign * value
    })
}
