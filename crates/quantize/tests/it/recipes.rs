//! Against what llama.cpp's own quantizer chooses (`scripts/goldens/recipes.py` ran it).

use allod_formats::TensorInfo;
use allod_quantize::recipe::{self, Facts, Options, Pattern};
use allod_tensor::DType;
use serde_json::Value;

fn golden() -> Value {
    serde_json::from_str(include_str!("../goldens/recipes.json")).unwrap()
}

fn tensors(model: &Value) -> Vec<(String, TensorInfo)> {
    let mut out = Vec::new();
    for t in model["tensors"].as_array().unwrap() {
        let mut shape: Vec<usize> = t[1].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
        shape.reverse();
        let name = t[0].as_str().unwrap();
        let info = TensorInfo { dtype: DType::BF16, shape };
        match t[2].as_array() {
            None => out.push((name.to_owned(), info)),
            Some(span) => {
                let layers = span[0].as_u64().unwrap()..span[1].as_u64().unwrap();
                out.extend(layers.map(|i| (format!("blk.{i}.{name}"), info.clone())));
            }
        }
    }
    out
}

fn facts(model: &Value, imatrix: bool) -> Facts {
    let n = |key: &str| model[key].as_u64().unwrap() as usize;
    Facts {
        arch: model["arch"].as_str().unwrap().into(),
        layers: n("layers"),
        heads: n("heads"),
        kv_heads: n("kv_heads"),
        experts: n("experts"),
        imatrix,
    }
}

fn fnv(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    format!("{hash:016x}")
}

#[test]
fn every_recipe_gives_every_model_the_types_that_llama_cpp_gives() {
    let golden = golden();
    let mut compared = 0;
    for (name, model) in golden["models"].as_object().unwrap() {
        for (recipe, hashes) in model["types"].as_object().unwrap() {
            for (imatrix, expected) in [false, true].into_iter().zip(hashes.as_str().unwrap().split(' ')) {
                let found = recipe::by_name(recipe).unwrap();
                let choices = found.choose(&facts(model, imatrix), tensors(model), &Options::default());
                let text: String = choices.iter().map(|c| format!("{} {}\n", c.name, c.to)).collect();
                assert_eq!(fnv(&text), expected, "{name} {recipe} imatrix {imatrix}:\n{text}");
                compared += choices.len();
            }
        }
    }
    assert!(compared > 300_000, "{compared}");
}

#[test]
fn file_types_are_llama_cpps() {
    for (name, number) in golden()["file_types"].as_object().unwrap() {
        assert_eq!(u64::from(recipe::by_name(name).unwrap().file_type), number.as_u64().unwrap(), "{name}");
    }
}

#[test]
fn wishes_stand_above_the_recipe_and_manual_types_are_not_counted() {
    let golden = golden();
    let model = &golden["models"]["llama-32"];
    let choose = |o: &Options| recipe::by_name("q4_k_m").unwrap().choose(&facts(model, false), tensors(model), o);
    let type_of = |choices: &[recipe::Choice], name: &str| choices.iter().find(|c| c.name == name).unwrap().to;
    let plain = choose(&Options::default());
    let v = |i: usize| format!("blk.{i}.attn_v.weight");
    assert_eq!([0, 4, 5, 6].map(|i| type_of(&plain, &v(i))), [DType::Q6_K, DType::Q4_K, DType::Q4_K, DType::Q6_K]);
    let overrides = vec![(Pattern::new(r"blk\.0\.attn_v").unwrap(), DType::Q8_0)];
    let manual = choose(&Options { overrides, ..Options::default() });
    // Layer 1 is now the first one counted: every bump comes one layer later.
    assert_eq!(
        [0, 4, 5, 6, 7].map(|i| type_of(&manual, &v(i))),
        [DType::Q8_0, DType::Q6_K, DType::Q4_K, DType::Q4_K, DType::Q6_K]
    );
    let ends = choose(&Options { output: Some(DType::Q8_0), embedding: Some(DType::Q3_K), ..Options::default() });
    assert_eq!(type_of(&ends, "output.weight"), DType::Q8_0);
    assert_eq!(type_of(&ends, "token_embd.weight"), DType::Q3_K);
    let pure = choose(&Options { pure: true, leave_output: true, ..Options::default() });
    assert_eq!(type_of(&pure, "output.weight"), DType::BF16);
    let matrices = pure.iter().filter(|c| c.to != c.from);
    assert!(matrices.clone().count() == 225 && matrices.clone().all(|c| c.to == DType::Q4_K));
}
