//! Each golden model: right at every position, and the same bytes however the work is cut. `ALLOD_GOLDENS` names another
//! folder of models, such as `scripts/goldens/variants.py` makes; `ALLOD_GOLDEN` picks some by name.

use allod_cpu::{Activations, Cpu, Isa, KvType, Options, Pool};
use allod_formats::{Metadata, Safetensors, TensorInfo, WeightSource, codec};
use allod_models::{Error, Model, model, open_source};
use allod_plan::{Backend, PAGE, SeqRows, Step};
use allod_tensor::Tensor;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Distance allowed to Transformers' logits, as a share of their standard deviation. Sums of a few hundred f32
/// products in another order differ by about 1e-6 of their size; four layers of them stay well below this.
pub(crate) const TOLERANCE: f32 = 1e-4;

pub(crate) struct Golden {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) ids: Vec<Vec<u32>>,
    /// One row of results for each position of each sequence.
    pub(crate) rows: Vec<f32>,
}

pub(crate) fn goldens() -> Vec<Golden> {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    let folder = std::env::var_os("ALLOD_GOLDENS").map_or(committed, PathBuf::from);
    let mut all: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
    all.retain(|p| p.join("golden.safetensors").is_file());
    if let Ok(only) = std::env::var("ALLOD_GOLDEN") {
        all.retain(|p| only.split(',').any(|o| p.file_name().unwrap().to_str().unwrap() == o));
    }
    all.sort();
    assert!(!all.is_empty(), "no goldens in {}", folder.display());
    all.into_iter().map(read).collect()
}

pub(crate) fn read(path: PathBuf) -> Golden {
    let file = Safetensors::open(path.join("golden.safetensors")).unwrap();
    let ids = file.tensor("ids").unwrap();
    let length = ids.shape[1];
    let ids = ids.data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32).collect::<Vec<_>>();
    let results = if file.entry("logits").is_some() { "logits" } else { "hidden" };
    let rows = codec::to_f32(&file.tensor(results).unwrap()).unwrap();
    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
    Golden { name, path, ids: ids.chunks(length).map(<[u32]>::to_vec).collect(), rows }
}

/// How a sequence is fed.
#[derive(Clone, Copy, Debug)]
struct Cut {
    threads: usize,
    isa: Isa,
    /// Rows of a step.
    chunk: usize,
    /// All sequences in the same steps, or one after the other.
    together: bool,
    /// Every value is asked for, so that no operation runs in one pass with another.
    apart: bool,
    activations: Activations,
    /// Results are asked for at positions that are this many apart, and at the ones before them.
    every: usize,
}

impl Cut {
    /// On one thread, one sequence after the other, each whole.
    fn plain(length: usize) -> Cut {
        let activations = Activations::default();
        Cut { threads: 1, isa: Isa::best(), chunk: length, together: false, apart: false, activations, every: 1 }
    }

    fn wants(&self, position: usize) -> bool {
        position.is_multiple_of(self.every) || (position + 1).is_multiple_of(self.every)
    }
}

pub(crate) fn open(g: &Golden) -> Result<Model, Error> {
    model(open_source(&g.path)?, Some(g.ids[0].len()))
}

/// Results of every position of every sequence, fed as `cut` says; zeros where none are asked for.
fn run(m: &Model, ids: &[Vec<u32>], cut: Cut) -> Vec<f32> {
    let length = ids[0].len();
    let per = length.div_ceil(PAGE);
    let options = Options {
        isa: cut.isa,
        rows: length * ids.len(),
        outputs: length * ids.len(),
        sequences: ids.len(),
        context: length,
        pages: Some(per * ids.len()),
        cache_type: Some(KvType::F32),
        activations: cut.activations,
        taps: if cut.apart { m.plan.values().iter().map(|v| v.name.clone()).collect() } else { vec![] },
        store: None,
    };
    let mut cpu = Cpu::new(&m.plan, &*m.source, Arc::new(Pool::new(cut.threads)), &options).unwrap();
    // Pages of different sequences alternate, so that a page table that is not followed shows.
    let tables: Vec<Vec<u32>> =
        (0..ids.len()).map(|s| (0..per).map(|p| (p * ids.len() + s) as u32).collect()).collect();
    let width = cpu.capacity().width;
    let mut results = vec![0.0; ids.len() * length * width];
    let groups: Vec<Vec<usize>> =
        if cut.together { vec![(0..ids.len()).collect()] } else { (0..ids.len()).map(|s| vec![s]).collect() };
    for group in groups {
        for start in (0..length).step_by(cut.chunk) {
            let n = cut.chunk.min(length - start);
            let tokens: Vec<u32> = group.iter().flat_map(|&s| ids[s][start..start + n].iter().copied()).collect();
            let sequences: Vec<SeqRows<'_>> = group
                .iter()
                .enumerate()
                .map(|(i, &s)| SeqRows {
                    rows: i * n..(i + 1) * n,
                    start: start as u32,
                    pages: &tables[s],
                    state: s as u32,
                    adapter: 0,
                })
                .collect();
            let outputs: Vec<u32> =
                (0..tokens.len()).filter(|row| cut.wants(start + row % n)).map(|row| row as u32).collect();
            let out = cpu.run(&Step { tokens: &tokens, sequences: &sequences, outputs: &outputs }).unwrap();
            for (&row, out) in outputs.iter().zip(out.chunks_exact(width)) {
                let (s, position) = (group[row as usize / n], start + row as usize % n);
                results[(s * length + position) * width..][..width].copy_from_slice(out);
            }
        }
    }
    results
}

/// Results of all sequences at once.
pub(crate) fn run_whole(m: &Model, ids: &[Vec<u32>]) -> Vec<f32> {
    run(m, ids, Cut { threads: 2, together: true, ..Cut::plain(ids[0].len()) })
}

/// One vector for each sequence, all in one step.
pub(crate) fn pooled(m: &Model, ids: &[Vec<u32>]) -> Vec<f32> {
    let all: Vec<u32> = ids.concat();
    let needed: Vec<u32> = ids.iter().map(|i| i.len().div_ceil(PAGE) as u32).collect();
    let options = Options {
        rows: all.len(),
        sequences: ids.len(),
        context: ids.iter().map(Vec::len).max().unwrap_or(0),
        pages: Some(needed.iter().sum::<u32>() as usize),
        cache_type: Some(KvType::F32),
        ..Options::default()
    };
    let mut cpu = Cpu::new(&m.plan, &*m.source, Arc::new(Pool::new(2)), &options).unwrap();
    let pages: Vec<u32> = (0..needed.iter().sum()).collect();
    let (mut row, mut page, mut sequences) = (0, 0, vec![]);
    for (s, (tokens, &n)) in ids.iter().zip(&needed).enumerate() {
        let (rows, own) = (row..row + tokens.len(), &pages[page..page + n as usize]);
        (row, page) = (rows.end, page + n as usize);
        sequences.push(SeqRows { rows, start: 0, pages: own, state: s as u32, adapter: 0 });
    }
    cpu.run(&Step { tokens: &all, sequences: &sequences, outputs: &[] }).unwrap().to_vec()
}

/// Greatest distance, as a share of the standard deviation of what is expected.
pub(crate) fn distance(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let far = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    // A number that is not one is as far as can be.
    far.map(|d| if d.is_nan() { f32::INFINITY } else { d }).fold(0.0, f32::max) / deviation(expected)
}

fn deviation(v: &[f32]) -> f32 {
    let mean = v.iter().map(|&x| f64::from(x)).sum::<f64>() / v.len() as f64;
    (v.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / v.len() as f64).sqrt() as f32
}

fn same_bytes(a: &[f32], b: &[f32]) -> bool {
    a.iter().zip(b).all(|(x, y)| x.to_bits() == y.to_bits())
}

/// A source whose quantized tensors are read as numbers. Transformers computes with those; our products with quantized
/// weights also round the rows they multiply, which is held against references of their own.
struct Plain(Box<dyn WeightSource>);

impl WeightSource for Plain {
    fn origin(&self) -> String {
        self.0.origin()
    }
    fn metadata(&self) -> &Metadata {
        self.0.metadata()
    }
    fn names(&self) -> Vec<String> {
        self.0.names()
    }
    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.0.info(name)
    }
    fn tensor(&self, name: &str) -> Result<Tensor, allod_formats::Error> {
        let t = self.0.tensor(name)?;
        Ok(if t.dtype.is_quantized() { Tensor::from_f32(t.shape.clone(), &codec::to_f32(&t).unwrap()) } else { t })
    }
}

fn open_plain(g: &Golden) -> Result<Model, Error> {
    model(Box::new(Plain(open_source(&g.path)?)), Some(g.ids[0].len()))
}

#[test]
fn results_are_those_of_transformers() {
    let mut wrong = vec![];
    for g in goldens() {
        let m = match open_plain(&g) {
            Ok(m) => m,
            Err(e) => {
                wrong.push(format!("{}: {e}", g.name));
                continue;
            }
        };
        let worst = distance(&run_whole(&m, &g.ids), &g.rows);
        println!("{}: worst difference {worst:.1e} of the standard deviation", g.name);
        if worst > TOLERANCE {
            wrong.push(format!("{}: {worst:.2e}", g.name));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_bytes_do_not_depend_on_how_the_work_is_cut() {
    for g in goldens() {
        let Ok(m) = open(&g) else { continue }; // the other test says so
        let whole = g.ids[0].len();
        // A model that sees the whole sequence at once cannot be fed in pieces.
        let pieces = if m.is_causal() { [whole, 1, 7] } else { [whole; 3] };
        for activations in Activations::ALL {
            let base = Cut { activations, ..Cut::plain(whole) };
            let expected = run(&m, &g.ids, base);
            let cuts = [
                Cut { together: true, threads: 2, ..base },
                Cut { chunk: pieces[1], ..base },
                Cut { chunk: pieces[2], threads: 3, together: true, ..base },
                Cut { isa: Isa::Scalar, ..base },
                Cut { apart: true, ..base },
                Cut { every: 5, together: true, threads: 2, ..base },
                Cut { every: 5, chunk: pieces[2], isa: Isa::Scalar, ..base },
                Cut { every: 5, chunk: pieces[1], ..base },
            ];
            for cut in cuts {
                let mut expected = expected.clone();
                let width = expected.len() / (whole * g.ids.len());
                let rows = expected.chunks_exact_mut(width).enumerate();
                rows.filter(|(row, _)| !cut.wants(row % whole)).for_each(|(_, row)| row.fill(0.0));
                assert!(same_bytes(&expected, &run(&m, &g.ids, cut)), "{}: other bytes with {cut:?}", g.name);
            }
        }
    }
}

/// Products with quantized weights round each row they multiply to eight bits. At the width of these models that moves
/// the logits of most rows by a twentieth of their standard deviation, and now and then a token to other experts, which
/// moves its row by half of it and more (`scripts/peers/routing_flips.py` tells the two apart).
#[test]
fn quantized_experts_stay_near() {
    for g in goldens().iter().filter(|g| g.name == "gpt_oss-mxfp4") {
        let m = open(g).unwrap();
        let (found, width) = (run_whole(&m, &g.ids), m.config.vocab);
        let rows = found.chunks(width).zip(g.rows.chunks(width));
        let error =
            |(f, e): (&[f32], &[f32])| f.iter().zip(e).map(|(a, b)| (a - b).powi(2)).sum::<f32>() / width as f32;
        let mut errors: Vec<f32> = rows.map(|r| error(r).sqrt() / deviation(&g.rows)).collect();
        errors.sort_by(f32::total_cmp);
        assert!(errors[errors.len() / 2] < 0.04, "{errors:?}");
    }
}
