use crate::{Memory, model};
use allod_formats::{Gguf, WeightSource, gguf};
use allod_kernels::pool::Pool;
use allod_quantize::{
    imatrix::{Entry, Imatrix},
    recipe::{self, Options},
    run::{self, Error, Report, Request, Warning},
};
use allod_tensor::{DType, Tensor};
use std::{fs, ops::ControlFlow, path::Path};

fn request<'a>(source: &'a Memory, recipe: &str, out: &'a Path) -> Request<'a> {
    let recipe = recipe::by_name(recipe).unwrap();
    Request {
        source,
        choices: recipe.choose_for(source, false, &Options::default()),
        recipe: recipe.name.into(),
        file_type: recipe.file_type,
        imatrix: None,
        out,
        split: gguf::Split::Never,
        measure: true,
    }
}

fn quantize(request: &Request, threads: usize) -> Result<Report, Error> {
    run::run(request, &Pool::new(threads), &mut |_| ControlFlow::Continue(()))
}

fn leftovers(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().contains("partial")).count()
}

#[test]
fn a_model_comes_out_quantized_and_says_where_it_comes_from() {
    let (dir, source) = (tempfile::tempdir().unwrap(), model());
    let out = dir.path().join("m.gguf");
    let report = quantize(&request(&source, "Q4_K_M", &out), 2).unwrap();
    let file = Gguf::open(&out).unwrap();
    assert_eq!(file.names().len(), source.tensors.len());
    assert_eq!(file.info("blk.0.attn_q.weight").unwrap().dtype, DType::Q4_K);
    assert_eq!(
        file.tensor("output_norm.weight").unwrap().data[..],
        source.tensor("output_norm.weight").unwrap().data[..]
    );
    assert_eq!(file.metadata().uint("general.file_type"), Some(15));
    assert!(file.metadata().str("allod.quantize.source").unwrap().starts_with("blake3:"));
    let error = |name: &str| report.tensors.iter().find(|t| t.choice.name == name).unwrap().error;
    assert_eq!(error("output_norm.weight"), None);
    let e = error("blk.0.attn_q.weight").unwrap();
    assert!(e > 1e-4 && e < 0.01, "{e}");
    assert!((4.5..7.0).contains(&report.bits_per_weight()), "{}", report.bits_per_weight());
    assert_eq!(report.bytes_out, run::size(&source, &request(&source, "Q4_K_M", &out).choices));
}

#[test]
fn any_number_of_threads_writes_the_same_file() {
    let (dir, source) = (tempfile::tempdir().unwrap(), model());
    let mut files = Vec::new();
    for threads in [1, 2, 3, 7] {
        let out = dir.path().join(format!("{threads}.gguf"));
        quantize(&request(&source, "IQ3_XXS", &out), threads).unwrap();
        files.push(fs::read(&out).unwrap());
    }
    assert!(files.iter().all(|f| *f == files[0]));
}

#[test]
fn stopped_anywhere_the_work_goes_on_and_ends_in_the_same_file() {
    let (dir, source) = (tempfile::tempdir().unwrap(), model());
    let (whole, out) = (dir.path().join("whole.gguf"), dir.path().join("m.gguf"));
    let split = gguf::Split::Tensors(6);
    quantize(&Request { split, ..request(&source, "Q4_K_S", &whole) }, 2).unwrap();
    let mut stops = 0;
    loop {
        let mut steps = 0;
        let stopping = &mut |_: run::Progress| {
            steps += 1;
            if steps > 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        match run::run(&Request { split, ..request(&source, "Q4_K_S", &out) }, &Pool::new(1), stopping) {
            Err(Error::Stopped) => stops += 1,
            Ok(report) => {
                assert!(report.resumed > 0 && report.paths.len() == 3);
                break;
            }
            Err(e) => panic!("{e}"),
        }
        assert!(!gguf::part_path(dir.path(), "m", 0, 3).exists());
        // A kill may also come in the middle of a write.
        if stops == 2 {
            let partial = dir.path().join(".m-00001-of-00003.gguf.partial");
            let cut = fs::metadata(&partial).unwrap().len() - 3;
            fs::OpenOptions::new().write(true).open(&partial).unwrap().set_len(cut).unwrap();
        }
    }
    assert!(stops > 2);
    for part in 0..3 {
        let read = |prefix| fs::read(gguf::part_path(dir.path(), prefix, part, 3)).unwrap();
        assert!(read("m") == read("whole"), "part {part}");
    }
    assert_eq!(leftovers(dir.path()), 0);
}

#[test]
fn what_another_job_left_is_not_taken_for_this_ones() {
    let (dir, source) = (tempfile::tempdir().unwrap(), model());
    let (whole, out) = (dir.path().join("whole.gguf"), dir.path().join("m.gguf"));
    let stop = &mut |p: run::Progress| if p.index > 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    assert!(matches!(run::run(&request(&source, "Q4_K_S", &out), &Pool::new(1), stop), Err(Error::Stopped)));
    let mut changed = model();
    changed.tensors[0].1 = Tensor::from_f32([300, 256], &crate::numbers(99, 300 * 256, false));
    assert_eq!(quantize(&request(&changed, "Q4_K_S", &out), 1).unwrap().resumed, 0);
    quantize(&request(&changed, "Q4_K_S", &whole), 1).unwrap();
    assert!(fs::read(&out).unwrap() == fs::read(&whole).unwrap());
}

#[test]
fn importance_reaches_every_expert_and_its_digest_the_file() {
    let (dir, source) = (tempfile::tempdir().unwrap(), model());
    let (out, stats) = (dir.path().join("m.gguf"), dir.path().join("i.gguf"));
    let mut m = Imatrix::default();
    let sums = (0..3 * 256).map(|i| if i % 256 % 3 == i / 256 { 25.0 } else { 0.01 }).collect();
    m.entries.insert("blk.0.ffn_up_exps.weight".into(), Entry { sums, counts: vec![1.0; 3] });
    m.save(&stats).unwrap();
    let plain = request(&source, "Q3_K_S", &out);
    quantize(&plain, 2).unwrap();
    let without = Gguf::open(&out).unwrap().tensor("blk.0.ffn_up_exps.weight").unwrap();
    quantize(&Request { imatrix: Some((&m, &stats)), ..request(&source, "Q3_K_S", &out) }, 2).unwrap();
    let file = Gguf::open(&out).unwrap();
    let with = file.tensor("blk.0.ffn_up_exps.weight").unwrap();
    let error = |t: &Tensor, expert: usize| -> f64 {
        let (x, y) = (source.tensor("blk.0.ffn_up_exps.weight").unwrap(), t);
        let (x, y) = (allod_formats::codec::to_f32(&x).unwrap(), allod_formats::codec::to_f32(y).unwrap());
        let important = (expert * 96 * 256..(expert + 1) * 96 * 256).filter(|i| i % 256 % 3 == expert);
        important.map(|i| f64::from(x[i] - y[i]).powi(2)).sum()
    };
    for expert in 0..3 {
        assert!(error(&with, expert) < 0.8 * error(&without, expert), "expert {expert}");
    }
    assert!(file.metadata().str("allod.quantize.imatrix").is_some());
    assert_eq!(file.metadata().str("quantize.imatrix.file"), Some("i.gguf"));
}

#[test]
fn bad_values_are_named_and_leave_nothing_behind() {
    let (dir, mut source) = (tempfile::tempdir().unwrap(), model());
    let mut values = crate::numbers(1, 64 * 256, false);
    values[5 * 256 + 9] = f32::NAN;
    let at = source.tensors.iter().position(|t| t.0 == "blk.1.attn_k.weight").unwrap();
    source.tensors[at].1 = Tensor::from_f32([64, 256], &values);
    let out = dir.path().join("m.gguf");
    fs::write(&out, b"old").unwrap();
    let error = quantize(&request(&source, "Q4_K_M", &out), 2).unwrap_err();
    assert!(matches!(&error, Error::Encode { name, row: 5, .. } if name == "blk.1.attn_k.weight"), "{error}");
    assert_eq!(fs::read(&out).unwrap(), b"old");
    assert_eq!(leftovers(dir.path()), 0);
    let nowhere = dir.path().join("no/such/folder/m.gguf");
    assert!(matches!(quantize(&request(&source, "Q4_K_M", &nowhere), 1), Err(Error::Format(_))));
}

#[test]
fn warnings_tell_of_second_quantization_and_missing_statistics() {
    let (dir, source) = (tempfile::tempdir().unwrap(), model());
    let out = dir.path().join("m.gguf");
    quantize(&request(&source, "Q8_0", &out), 1).unwrap();
    let quantized = Gguf::open(&out).unwrap();
    let recipe = recipe::by_name("IQ2_XS").unwrap();
    let choices = recipe.choose_for(&quantized, false, &Options::default());
    let warnings = run::warnings(&choices, Some(recipe), None);
    assert!(
        matches!(warnings[..], [Warning::Requantized(15, DType::Q8_0), Warning::NeedsImatrix(_, DType::IQ2_XS)]),
        "{warnings:?}"
    );
}
