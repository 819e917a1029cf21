//! Attention: tiles, splits, threads and instruction sets against the definition (bytes), and the definition against
//! f64 (tolerance).

use allod_kernels::attention::{AttendParams, KvCache, KvError, KvLayout, KvType, PAGE, SeqRows, attend, reference};
use allod_kernels::hadamard;
use allod_kernels::isa::Isa;
use allod_kernels::pool::Pool;

use crate::rng::{Rng, bits, wide};

const TYPES: [KvType; 6] = KvType::ALL;

/// One sequence with all its keys, values and queries, in scattered pages.
struct Sequence {
    length: usize,
    pages: Vec<u32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

struct Case {
    layout: KvLayout,
    heads: usize,
    v_dim: usize,
    sequences: Vec<Sequence>,
    cache_pages: usize,
}

impl Case {
    fn random(rng: &mut Rng, layout: KvLayout, group: usize, v_dim: usize, lengths: &[usize]) -> Case {
        let heads = layout.kv_heads * group;
        let total: usize = lengths.iter().map(|l| l.div_ceil(PAGE)).sum();
        let mut free: Vec<u32> = (0..total as u32 + 3).collect();
        let sequences = lengths
            .iter()
            .map(|&length| Sequence {
                length,
                pages: (0..length.div_ceil(PAGE)).map(|_| free.swap_remove(rng.below(free.len()))).collect(),
                q: rng.vec(length * heads * layout.k_dim, 1.0),
                k: rng.vec(length * layout.kv_heads * layout.k_dim, 1.0),
                v: rng.vec(length * layout.kv_heads * layout.v_dim, 1.0),
            })
            .collect();
        Case { layout, heads, v_dim, sequences, cache_pages: total + 3 }
    }

    fn cache(&self) -> KvCache {
        KvCache::new(self.layout, self.cache_pages).unwrap()
    }

    /// One step with positions `ranges[s]` of each sequence; returns the outputs of each.
    fn step(&self, cache: &mut KvCache, ranges: &[std::ops::Range<usize>], how: How<'_>) -> Vec<Vec<f32>> {
        let (mut q, mut k, mut v, mut seqs) = (vec![], vec![], vec![], vec![]);
        let mut rows = 0;
        for (s, r) in self.sequences.iter().zip(ranges) {
            let cut = |x: &[f32], w: usize| x[r.start * w..r.end * w].to_vec();
            q.extend(cut(&s.q, self.heads * self.layout.k_dim));
            k.extend(cut(&s.k, self.layout.kv_heads * self.layout.k_dim));
            v.extend(cut(&s.v, self.layout.kv_heads * self.layout.v_dim));
            seqs.push(SeqRows { rows: rows..rows + r.len(), start: r.start as u32, pages: &s.pages });
            rows += r.len();
        }
        let mut out = vec![f32::NAN; rows * self.heads * self.v_dim];
        match how {
            How::Reference(p) => {
                cache.write(&Pool::new(1), Isa::Scalar, &k, &v, &seqs);
                reference(p, &q, cache, &seqs, &mut out);
            }
            How::Attend(p, isa, threads) => {
                let pool = Pool::new(threads);
                cache.write(&pool, isa, &k, &v, &seqs);
                attend(&pool, isa, p, &q, cache, &seqs, &mut out);
            }
        }
        let width = self.heads * self.v_dim;
        seqs.iter().map(|s| out[s.rows.start * width..s.rows.end * width].to_vec()).collect()
    }

    fn all(&self, how: How<'_>) -> Vec<Vec<f32>> {
        let ranges: Vec<_> = self.sequences.iter().map(|s| 0..s.length).collect();
        self.step(&mut self.cache(), &ranges, how)
    }

    /// The same in steps of `n` rows per sequence.
    fn in_steps(&self, n: usize, how: How<'_>) -> Vec<Vec<f32>> {
        let mut cache = self.cache();
        let mut out = vec![vec![]; self.sequences.len()];
        let longest = self.sequences.iter().map(|s| s.length).max().unwrap();
        for at in (0..longest).step_by(n) {
            let ranges: Vec<_> = self.sequences.iter().map(|s| at.min(s.length)..(at + n).min(s.length)).collect();
            for (o, new) in out.iter_mut().zip(self.step(&mut cache, &ranges, how)) {
                o.extend(new);
            }
        }
        out
    }
}

#[derive(Clone, Copy)]
enum How<'a> {
    Reference(&'a AttendParams<'a>),
    Attend(&'a AttendParams<'a>, Isa, usize),
}

fn same(what: &str, got: &[Vec<f32>], want: &[Vec<f32>]) {
    for (s, (g, w)) in got.iter().zip(want).enumerate() {
        assert!(w.iter().all(|v| v.is_finite()), "{what}: sequence {s} is not finite");
        let differing = bits(g).iter().zip(bits(w)).position(|(a, b)| *a != b);
        assert!(g.len() == w.len() && differing.is_none(), "{what}: sequence {s} differs at {differing:?}");
    }
}

/// Random parameters of every kind.
fn params<'a>(rng: &mut Rng, heads: usize, sinks: &'a [f32], slopes: &'a [f32]) -> AttendParams<'a> {
    let mut p = AttendParams::causal(heads, 0.3);
    p.causal = rng.below(5) > 0;
    p.softcap = (rng.below(3) == 0).then_some(5.0);
    p.window = (rng.below(3) == 0).then(|| 1 + rng.below(700) as u32);
    p.chunk = (p.causal && rng.below(4) == 0).then(|| 1 + rng.below(900) as u32);
    p.sinks = (rng.below(3) == 0).then_some(sinks);
    p.alibi = (rng.below(3) == 0).then_some(slopes);
    p
}

#[test]
fn tiles_splits_threads_and_steps_leave_no_trace() {
    for seed in 0..48 {
        let mut rng = Rng(seed);
        let dtype = rng.pick(&TYPES);
        let dims = [8, 16, 24, 32, 40, 64, 80];
        let (k_dim, v_dim) = (rng.pick(&dims), rng.pick(&dims));
        let kv_heads = rng.pick(&[1, 2, 5, 8]);
        let group = rng.pick(&[1, 2, 3, 7, 13]);
        let layout = KvLayout { kv_heads, k_dim, v_dim, dtype };
        let lengths: Vec<usize> = (0..1 + rng.below(3)).map(|_| 1 + rng.below(rng.pick_limit())).collect();
        let case = Case::random(&mut rng, layout, group, v_dim, &lengths);
        let (sinks, slopes) = (rng.vec(case.heads, 1.0), rng.vec(case.heads, 0.01));
        let p = params(&mut rng, case.heads, &sinks, &slopes);
        let want = case.all(How::Attend(&p, Isa::best(), 1));
        if lengths.iter().all(|&l| l < 100) {
            same(&format!("seed {seed}, scalar, {p:?}"), &case.all(How::Attend(&p, Isa::Scalar, 1)), &want);
        }
        for isa in wide() {
            for threads in [1, 2, 3, 4] {
                let got = case.all(How::Attend(&p, isa, threads));
                same(&format!("seed {seed}, {isa:?}, {threads} threads, {p:?}"), &got, &want);
            }
            // Steps show later rows nothing of a sequence that sees itself whole.
            if p.causal {
                let got = case.in_steps(7, How::Attend(&p, isa, 3));
                same(&format!("seed {seed}, chunks of 7, {isa:?}, {p:?}"), &got, &want);
                if isa == Isa::best() {
                    let got = case.in_steps(1, How::Attend(&p, isa, 2));
                    same(&format!("seed {seed}, row by row, {p:?}"), &got, &want);
                }
            }
        }
    }
}

impl Rng {
    fn pick_limit(&self) -> usize {
        if self.0 & 64 == 0 { 60 } else { 1300 }
    }
}

#[test]
fn attend_is_the_reference() {
    for seed in 100..140 {
        let mut rng = Rng(seed);
        let dtype = TYPES[seed as usize % TYPES.len()];
        let (k_dim, v_dim) = (rng.pick(&[8, 20, 32, 64]), rng.pick(&[8, 20, 32, 64]));
        let layout = KvLayout { kv_heads: 1 + rng.below(2), k_dim, v_dim, dtype };
        let group = 1 + rng.below(4);
        let lengths = [1 + rng.below(40), 1 + rng.below(600)];
        let case = Case::random(&mut rng, layout, group, v_dim, &lengths);
        let (sinks, slopes) = (rng.vec(case.heads, 1.0), rng.vec(case.heads, 0.01));
        let p = params(&mut rng, case.heads, &sinks, &slopes);
        // Only the last rows: the definition is slow.
        let tail: Vec<_> = lengths.iter().map(|&l| l.saturating_sub(3)..l).collect();
        let step = |how: How<'_>| {
            let mut cache = case.cache();
            let start: Vec<_> = tail.iter().map(|r| 0..r.start).collect();
            case.step(&mut cache, &start, How::Attend(&p, Isa::Scalar, 1));
            case.step(&mut cache, &tail, how)
        };
        let want = step(How::Reference(&p));
        for isa in [Isa::Scalar, Isa::best()] {
            same(&format!("seed {seed} {isa:?} {p:?}"), &step(How::Attend(&p, isa, 2)), &want);
        }
    }
}

#[test]
fn latent_attention_reads_values_from_keys() {
    for (seed, dtype) in TYPES.into_iter().enumerate().map(|(seed, dtype)| (seed as u64, dtype)) {
        let mut rng = Rng(seed);
        let layout = KvLayout { kv_heads: 1, k_dim: 576, v_dim: 0, dtype };
        let case = Case::random(&mut rng, layout, 100, 512, &[21, 530]);
        let mut p = AttendParams::causal(100, 0.05);
        p.v_prefix = Some(512);
        let tail = [18..21, 528..530];
        let step = |how: How<'_>| {
            let mut cache = case.cache();
            case.step(&mut cache, &[0..18, 0..528], How::Attend(&p, Isa::best(), 2));
            case.step(&mut cache, &tail, how)
        };
        let want = step(How::Reference(&p));
        same("latent", &step(How::Attend(&p, Isa::Scalar, 1)), &want);
        for isa in wide() {
            same("latent", &step(How::Attend(&p, isa, 3)), &want);
        }
    }
}

/// What attention means, in f64, from numbers that the cache holds exactly.
fn truth(case: &Case, p: &AttendParams<'_>, s: &Sequence, row: usize, head: usize) -> Vec<f64> {
    let KvLayout { kv_heads, k_dim, v_dim, .. } = case.layout;
    let kv = head / (case.heads / kv_heads);
    let mut scores = vec![];
    for key in 0..s.length {
        let distance = key as i64 - row as i64;
        let seen = if p.causal {
            distance <= 0 && p.window.is_none_or(|w| -distance < i64::from(w))
        } else {
            p.window.is_none_or(|w| distance.abs() <= i64::from(w))
        };
        if !seen || p.chunk.is_some_and(|c| key as u32 / c != row as u32 / c) {
            continue;
        }
        let dot: f64 = (0..k_dim)
            .map(|d| {
                f64::from(s.q[(row * case.heads + head) * k_dim + d])
                    * f64::from(s.k[(key * kv_heads + kv) * k_dim + d])
            })
            .sum();
        let mut score = dot * f64::from(p.scale);
        if let Some(cap) = p.softcap {
            score = f64::from(cap) * (score / f64::from(cap)).tanh();
        }
        if let Some(slopes) = p.alibi {
            score += f64::from(slopes[head]) * distance as f64;
        }
        scores.push((key, score));
    }
    let sink = p.sinks.map_or(0.0, |s| f64::from(s[head]).exp());
    let total: f64 = scores.iter().map(|s| s.1.exp()).sum::<f64>() + sink;
    (0..v_dim)
        .map(|d| {
            scores.iter().map(|&(key, w)| w.exp() / total * f64::from(s.v[(key * kv_heads + kv) * v_dim + d])).sum()
        })
        .collect()
}

#[test]
fn attention_means_what_it_should() {
    for seed in 200..230 {
        let mut rng = Rng(seed);
        let layout = KvLayout { kv_heads: 2, k_dim: 32, v_dim: 24, dtype: KvType::F32 };
        let lengths = [1 + rng.below(90), 1 + rng.below(1200)];
        let case = Case::random(&mut rng, layout, 2, 24, &lengths);
        let (sinks, slopes) = (rng.vec(4, 1.0), rng.vec(4, 0.01));
        let p = params(&mut rng, 4, &sinks, &slopes);
        let got = case.all(How::Attend(&p, Isa::best(), 2));
        for (s, got) in case.sequences.iter().zip(&got) {
            for row in [0, s.length / 2, s.length - 1] {
                for head in 0..4 {
                    let want = truth(&case, &p, s, row, head);
                    for (d, w) in want.iter().enumerate() {
                        let g = f64::from(got[(row * 4 + head) * 24 + d]);
                        // Scores of up to 2⁵ are rounded 2⁵ times; a convex sum of values keeps relative errors.
                        assert!((g - w).abs() < 1e-4, "seed {seed}, row {row}, head {head}, {d}: {g}, {w}; {p:?}");
                    }
                }
            }
        }
    }
}

/// Attention with keys that have one channel in sixteen far outside: by how much, relative to the longest result, four
/// bits are off what exact keys and values give.
fn error_with_outliers(seed: u64, dtype: KvType) -> f64 {
    let mut rng = Rng(seed);
    let layout = KvLayout { kv_heads: 1, k_dim: 64, v_dim: 64, dtype };
    let mut case = Case::random(&mut rng, layout, 2, 64, &[200]);
    for s in &mut case.sequences {
        s.k.iter_mut().skip(5).step_by(16).for_each(|x| *x = 8.0 + 0.1 * *x);
        s.v.iter_mut().skip(9).step_by(16).for_each(|x| *x *= 10.0);
    }
    let p = AttendParams::causal(2, 0.125);
    let got = case.all(How::Attend(&p, Isa::best(), 1));
    let (mut error, mut length) = (0.0, 0.0);
    for row in (0..200).step_by(23) {
        for head in 0..2 {
            let want = truth(&case, &p, &case.sequences[0], row, head);
            for (d, w) in want.iter().enumerate() {
                error += (f64::from(got[0][(row * 2 + head) * 64 + d]) - w).powi(2);
                length += w * w;
            }
        }
    }
    (error / length).sqrt()
}

#[test]
fn outliers_do_not_spoil_four_bits() {
    for seed in 300..310 {
        let (q8, q4) = (error_with_outliers(seed, KvType::Q8_0), error_with_outliers(seed, KvType::Q4_0));
        // Rotated, the largest of a block is some 2.5 times its root mean square, a step an eighth of that, and rounding
        // 1/√12 of a step: 0.09 of the values, and 0.19 on keys of 2.1, which is 0.11 on a score (64 products with
        // queries of 0.58, times 1/8). Both spread alike over the keys: 0.14 in all, and twice that for chance.
        assert!(q4 < 0.28, "seed {seed}: four bits are off by {q4}");
        assert!(q8 < q4, "seed {seed}: eight bits are off by {q8}, four by {q4}");
    }
}

#[test]
fn sixteen_bits_are_no_worse_as_integers() {
    for seed in 310..320 {
        let (i16, f16) = (error_with_outliers(seed, KvType::I16), error_with_outliers(seed, KvType::F16));
        // Of a key's norm of 17 a step is 1/46,200 or, of an outlier's 8.1, 1/32,767: 0.00037, where f16 has 0.0078 on outliers and
        // at most 0.0005 elsewhere.
        assert!(i16 < f16, "seed {seed}: integers are off by {i16}, f16 by {f16}");
    }
}

/// Sums of integers come close to 2³¹ where all elements, or all weights, are alike.
#[test]
fn integers_do_not_overflow() {
    for (k_dim, v_dim) in [(2, 2), (64, 64), (128, 128), (576, 512)] {
        let layout = KvLayout { kv_heads: 1, k_dim, v_dim, dtype: KvType::I16 };
        for kind in 0..4 {
            let mut case = Case::random(&mut Rng(kind), layout, 2, v_dim, &[70]);
            for s in &mut case.sequences {
                let alike = |x: &mut Vec<f32>, by: f32| x.iter_mut().for_each(|x| *x = by);
                match kind {
                    0 => [&mut s.q, &mut s.k, &mut s.v].map(|x| alike(x, 3.0)),
                    1 => [&mut s.q, &mut s.k, &mut s.v].map(|x| alike(x, -1e15)),
                    // One element of each vector has all of its norm.
                    2 => [&mut s.q, &mut s.k, &mut s.v].map(|x| x.iter_mut().skip(1).step_by(2).for_each(|x| *x = 0.0)),
                    _ => [&mut s.q, &mut s.k, &mut s.v].map(|x| x.iter_mut().for_each(|x| *x *= 1e-12)),
                };
            }
            let p = AttendParams::causal(2, 1e-3 / k_dim as f32);
            let want = case.all(How::Reference(&p));
            for isa in [Isa::Scalar].into_iter().chain(wide()) {
                same(&format!("{k_dim}, kind {kind}, {isa:?}"), &case.all(How::Attend(&p, isa, 1)), &want);
            }
        }
    }
}

/// A key or a value that is not finite spoils the rows that see it and no others.
#[test]
fn what_is_not_finite_stays_where_it_is() {
    for (broken, of_key) in [(f32::NAN, true), (f32::INFINITY, true), (f32::NAN, false), (f32::NEG_INFINITY, false)] {
        let layout = KvLayout { kv_heads: 1, k_dim: 16, v_dim: 16, dtype: KvType::I16 };
        let mut case = Case::random(&mut Rng(7), layout, 1, 16, &[40]);
        let p = AttendParams::causal(1, 0.1);
        let sound = case.all(How::Attend(&p, Isa::best(), 1)).remove(0);
        let s = &mut case.sequences[0];
        if of_key {
            s.k[20 * 16 + 3] = broken
        } else {
            s.v[20 * 16 + 3] = broken
        };
        for isa in [Isa::Scalar].into_iter().chain(wide()) {
            let got = case.all(How::Attend(&p, isa, 1)).remove(0);
            assert_eq!(bits(&got[..20 * 16]), bits(&sound[..20 * 16]), "{broken} {of_key} {isa:?}");
            assert!(got[20 * 16..].iter().all(|x| x.is_nan()), "{broken} {of_key} {isa:?}: {:?}", &got[20 * 16..]);
        }
    }
}

#[test]
fn stored_numbers_are_the_nearest() {
    let mut rng = Rng(9);
    // A single key: the output is its value, as stored.
    let read = |dtype: KvType, v: &[f32], isa: Isa| -> Vec<f32> {
        let layout = KvLayout { kv_heads: 1, k_dim: 32, v_dim: v.len(), dtype };
        let mut cache = KvCache::new(layout, 1).unwrap();
        let seqs = [SeqRows { rows: 0..1, start: 0, pages: &[0] }];
        let pool = Pool::new(1);
        cache.write(&pool, isa, &[0.0; 32], v, &seqs);
        let mut out = vec![0.0; v.len()];
        attend(&pool, isa, &AttendParams::causal(1, 1.0), &[0.0; 32], &cache, &seqs, &mut out);
        out
    };
    for _ in 0..200 {
        let scale = rng.pick(&[1e-9, 3e-6, 1e-4, 1.0, 1000.0, 40000.0]);
        let v = rng.vec(64, scale);
        for isa in [Isa::Scalar, Isa::best()] {
            assert_eq!(read(KvType::F32, &v, isa), v);
            let want: Vec<f32> = v.iter().map(|x| half::f16::from_f32(x.clamp(-65504.0, 65504.0)).to_f32()).collect();
            assert_eq!(read(KvType::F16, &v, isa), want, "f16");
            let want: Vec<f32> = v.iter().map(|x| half::bf16::from_f32(*x).to_f32()).collect();
            assert_eq!(read(KvType::BF16, &v, isa), want, "bf16");
            let stored = read(KvType::I16, &v, isa);
            let largest = v.iter().fold(0f32, |m, x| m.max(x.abs()));
            for (x, y) in v.iter().zip(stored) {
                // Half a step; then scales, their product with the weight, and the sum are each rounded to 24 bits.
                assert!(
                    (x - y).abs() <= 0.5 * largest / 32767.0 + 8.0 * f32::EPSILON * largest,
                    "i16 stored {x} as {y}"
                );
            }
            for (dtype, steps) in [(KvType::Q8_0, 127.0), (KvType::Q4_0, 8.0)] {
                let (mut v, mut stored) = (v.clone(), read(dtype, &v, isa));
                // The nearest of what is stored: four bits are stored rotated. Turning there and back rounds.
                let mut rounding = 0.0;
                if dtype == KvType::Q4_0 {
                    rounding = v.iter().fold(0f32, |m, x| m.max(x.abs())) * 64.0 * f32::EPSILON;
                    hadamard::rotate(Isa::Scalar, &mut v, 64);
                    hadamard::rotate(Isa::Scalar, &mut stored, 64);
                }
                for (x, y) in v.chunks(32).zip(stored.chunks(32)) {
                    let largest = x.iter().fold(0f32, |m, v| m.max(v.abs()));
                    // Half a step, a whole one where Q4_0 has no +8, and the rounding of the f16 scale.
                    let step = largest / steps;
                    let bound = step * if dtype == KvType::Q4_0 { 1.01 } else { 0.51 } + steps * 6e-8 + rounding;
                    for (x, y) in x.iter().zip(y) {
                        assert!((x - y).abs() <= bound, "{dtype:?} stored {x} as {y}, step {step}");
                    }
                }
            }
        }
    }
}

#[test]
fn copied_pages_hold_the_same() {
    for (seed, dtype) in (10..).zip(TYPES) {
        let mut rng = Rng(seed);
        let layout = KvLayout { kv_heads: 3, k_dim: 24, v_dim: 40, dtype };
        let case = Case::random(&mut rng, layout, 1, 40, &[10]);
        let mut cache = case.cache();
        let p = AttendParams::causal(3, 1.0);
        let range = 0..10;
        let want = case.step(&mut cache, std::slice::from_ref(&range), How::Attend(&p, Isa::Scalar, 1));
        let from = case.sequences[0].pages[0];
        let [copy, rewritten] = [1, 2].map(|i| (from + i) % case.cache_pages as u32);
        cache.copy_page(from, copy);
        let mut bytes = vec![];
        cache.read_page(from, &mut bytes);
        assert_eq!(bytes.len(), cache.page_bytes());
        cache.write_page(rewritten, &bytes);
        for page in [copy, rewritten] {
            let mut out = vec![0.0; want[0].len()];
            let seqs = [SeqRows { rows: 0..10, start: 0, pages: &[page] }];
            attend(&Pool::new(1), Isa::Scalar, &p, &case.sequences[0].q, &cache, &seqs, &mut out);
            same(&format!("{dtype:?}, page {page} for {from}"), &[out], &want);
        }
    }
}

#[test]
fn impossible_layouts_are_refused() {
    let layout = KvLayout { kv_heads: 0, k_dim: 80, v_dim: 80, dtype: KvType::Q8_0 };
    assert!(matches!(KvCache::new(layout, 1), Err(KvError::Size { .. })));
    let layout = KvLayout { kv_heads: usize::MAX / 4, k_dim: 80, v_dim: 80, dtype: KvType::F16 };
    assert!(matches!(KvCache::new(layout, 1), Err(KvError::Size { .. })));
    let layout = KvLayout { kv_heads: 1, k_dim: 64, v_dim: 64, dtype: KvType::F16 };
    assert!(matches!(KvCache::new(layout, usize::MAX / 64), Err(KvError::Size { .. })));
    assert_eq!(layout.page_bytes(), Some(2 * 16 * 64 * 2));
}
