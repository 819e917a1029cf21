use crate::model;
use allod_formats::WeightSource;
use allod_kernels::pool::Pool;
use allod_quantize::{
    mix::{self, Mix, MixError, Wishes},
    recipe::{self, Choice, Options},
    run,
};
use allod_tensor::DType;

/// The sum that [`mix::solve`] makes small, over the matrices.
fn loss(source: &dyn WeightSource, choices: &[Choice]) -> f64 {
    let matrices = choices.iter().filter(|c| c.to != c.from);
    let losses = matrices.map(|c| {
        let weight = if c.name == "token_embd.weight" { 4.0 } else { 1.0 };
        let tensor = source.tensor(&c.name).unwrap();
        weight * run::sampled_error("memory", &c.name, &tensor, c.to, None, 48).unwrap()
    });
    losses.sum()
}

#[test]
fn a_mix_of_the_same_size_loses_less_than_the_recipe() {
    let (source, pool) = (model(), Pool::new(2));
    for name in ["Q4_K_M", "Q3_K_M", "IQ4_XS"] {
        let by_name = recipe::by_name(name).unwrap().choose_for(&source, false, &Options::default());
        let size = run::size(&source, &by_name);
        let mixed = mix::solve(&source, None, size, &Wishes::default(), &pool).unwrap();
        assert!(run::size(&source, &mixed) <= size, "{name}");
        assert!(run::size(&source, &mixed) as f64 > 0.97 * size as f64, "{name}: room is used");
        let (a, b) = (loss(&source, &mixed), loss(&source, &by_name));
        assert!(a < b, "{name}: {a} against {b}");
    }
}

#[test]
fn mixes_survive_their_file_and_name_what_is_wrong() {
    let source = model();
    let choices = mix::solve(&source, None, 200_000, &Wishes::default(), &Pool::new(1)).unwrap();
    let text = Mix::of("mine", &choices).to_json().unwrap();
    assert_eq!(Mix::from_json(&text).unwrap().choices(&source).unwrap(), choices);
    let wrong = text.replacen("Q", "X", 1);
    assert!(matches!(Mix::from_json(&wrong).unwrap().choices(&source), Err(MixError::Type { .. })));
    let other = text.replace("blk.1.", "blk.7.");
    assert!(matches!(Mix::from_json(&other).unwrap().choices(&source), Err(MixError::Tensor { .. })));
    assert!(choices.iter().all(|c| c.name != "output_norm.weight" || c.to == DType::F32));
}
