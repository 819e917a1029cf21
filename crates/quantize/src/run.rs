//! Quantizing a model: a source and a choice for every tensor enter, a GGUF file leaves.
//!
//! Tensors are read, encoded by all threads and written piece by piece, so memory stays small whatever the model's
//! size. The file appears complete or not at all; interrupted work goes on where it stopped. What the bytes depend on
//! stands in the file's metadata, and nothing else decides about them: the same input gives the same file.

use crate::{
    encode,
    imatrix::{self, Imatrix},
    recipe::{Choice, Recipe},
};
use allod_formats::{Metadata, TensorInfo, WeightSource, codec, gguf};
use allod_kernels::pool::Pool;
use allod_tensor::{DType, Tensor};
use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Changes whenever an encoder gives other bytes than before.
pub const ENCODERS: u32 = 2;

/// What to do.
pub struct Request<'a> {
    /// The model.
    pub source: &'a dyn WeightSource,
    /// A type for every tensor, in the order in which they are to stand in the file.
    pub choices: Vec<Choice>,
    /// Where the choices come from: `Q4_K_M`, or the name of a mix.
    pub recipe: String,
    /// The number in `general.file_type`.
    pub file_type: u32,
    /// Importance statistics and the file that they were read from.
    pub imatrix: Option<(&'a Imatrix, &'a Path)>,
    /// The file to write.
    pub out: &'a Path,
    /// Into how many files.
    pub split: gguf::Split,
    /// Measures the error of every tensor, which takes about a tenth longer.
    pub measure: bool,
}

/// How far the work is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The tensor at hand.
    pub tensor: &'a str,
    /// Its number and how many there are.
    pub index: usize,
    /// Number of tensors.
    pub count: usize,
    /// Bytes of the source that are done.
    pub done: u64,
    /// Bytes of the source.
    pub total: u64,
    /// Time that the rest will take at the pace so far.
    pub left: Option<Duration>,
}

/// What was written.
#[derive(Clone, Debug)]
pub struct Report {
    /// The files.
    pub paths: Vec<PathBuf>,
    /// Every tensor.
    pub tensors: Vec<TensorReport>,
    /// Tensors that an interrupted run had written already (they have no errors here).
    pub resumed: usize,
    /// Bytes of all tensors in the source.
    pub bytes_in: u64,
    /// Bytes of all tensors in the file.
    pub bytes_out: u64,
    /// Numbers in all tensors.
    pub weights: u64,
}

impl Report {
    /// Bits per weight over all tensors.
    pub fn bits_per_weight(&self) -> f64 {
        self.bytes_out as f64 * 8.0 / self.weights.max(1) as f64
    }
}

/// What became of a tensor.
#[derive(Clone, Debug)]
pub struct TensorReport {
    /// Its name and types.
    pub choice: Choice,
    /// Bytes in the file.
    pub bytes: u64,
    /// Squared error over squared values, weighted by importance where there is some: of all that is lost in the
    /// tensor's products.
    pub error: Option<f64>,
}

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Source or target.
    #[error(transparent)]
    Format(#[from] allod_formats::Error),
    /// The statistics do not fit the model.
    #[error(transparent)]
    Imatrix(#[from] imatrix::Error),
    /// The file of statistics cannot be read again.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A tensor cannot be encoded.
    #[error("{origin}: tensor {name:?}, row {row}: {source}")]
    Encode {
        /// The source.
        origin: String,
        /// The tensor.
        name: String,
        /// The first row of the piece that failed; of the value itself when a value is at fault.
        row: usize,
        /// What is wrong.
        source: Box<encode::Error>,
    },
    /// A tensor's bytes are not what its type asks for.
    #[error("{origin}: tensor {name:?}: {source}")]
    Decode {
        /// The source.
        origin: String,
        /// The tensor.
        name: String,
        /// What is wrong.
        source: Box<codec::Error>,
    },
    /// The caller asked to stop; the work so far is kept.
    #[error("stopped; the same command goes on from here")]
    Stopped,
}

/// Something to tell before the work begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// Tensors that were quantized before lose a second time: how many, and one of the types.
    Requantized(usize, DType),
    /// Types that come out badly without importance statistics: how many tensors, and one of the types.
    NeedsImatrix(usize, DType),
    /// Rows that no block of the wished type divides: how many tensors.
    Fallback(usize),
    /// Matrices without statistics although there are some for others.
    NoStatistics(usize),
}

/// What there is to tell about choices.
pub fn warnings(choices: &[Choice], recipe: Option<&Recipe>, imatrix: Option<&Imatrix>) -> Vec<Warning> {
    let changed: Vec<&Choice> = choices.iter().filter(|c| c.from != c.to).collect();
    let mut out = Vec::new();
    let mut tell = |found: Vec<&&Choice>, of: fn(usize, DType) -> Warning, dtype: fn(&Choice) -> DType| {
        if let Some(first) = found.first() {
            out.push(of(found.len(), dtype(first)));
        }
    };
    tell(changed.iter().filter(|c| c.from.is_quantized()).collect(), Warning::Requantized, |c| c.from);
    if let (None, Some(r)) = (imatrix, recipe) {
        let poor = changed.iter().filter(|c| r.needs_imatrix(&c.name, c.to));
        tell(poor.collect(), Warning::NeedsImatrix, |c| c.to);
    }
    tell(changed.iter().filter(|c| c.instead_of.is_some()).collect(), |n, _| Warning::Fallback(n), |c| c.to);
    if let Some(m) = imatrix {
        let unseen = changed.iter().filter(|c| c.to.is_quantized() && !m.entries.contains_key(&c.name));
        tell(unseen.collect(), |n, _| Warning::NoStatistics(n), |c| c.to);
    }
    out
}

/// Bytes that the choices take, padding not counted.
pub fn size(source: &dyn WeightSource, choices: &[Choice]) -> u64 {
    let bytes = |c: &Choice| Tensor::bytes_of(c.to, &source.info(&c.name)?.shape);
    choices.iter().filter_map(bytes).map(|n| n as u64).sum()
}

/// Quantizes. `progress` is called after every piece and may stop the work.
///
/// # Errors
/// [`Error`]; except for [`Error::Stopped`] nothing is left behind.
pub fn run(
    request: &Request,
    pool: &Pool,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Report, Error> {
    let mut metadata = request.source.metadata().clone();
    stamp(request, &mut metadata, pool)?;
    let infos = request.choices.iter().filter_map(|c| {
        let info = request.source.info(&c.name)?;
        Some((c.name.clone(), TensorInfo { dtype: c.to, ..info }))
    });
    let layout = gguf::Layout { split: request.split, ..gguf::Layout::default() };
    let (mut writer, resumed) = gguf::Writer::resume(request.out, &metadata, infos, &layout)?;
    match write(request, pool, progress, &mut writer, resumed) {
        Ok(mut report) => {
            report.paths = writer.finish()?;
            Ok(report)
        }
        Err(Error::Stopped) => Err(Error::Stopped),
        Err(e) => {
            writer.discard();
            Err(e)
        }
    }
}

/// Writes into the metadata what the file's bytes depend on.
fn stamp(request: &Request, m: &mut Metadata, pool: &Pool) -> Result<(), Error> {
    m.set("general.file_type", request.file_type);
    m.set("general.quantization_version", 2u32);
    m.set("allod.quantize.source", format!("blake3:{}", source_digest(request.source, pool)?));
    m.set("allod.quantize.recipe", request.recipe.as_str());
    m.set("allod.quantize.version", env!("CARGO_PKG_VERSION"));
    m.set("allod.quantize.encoders", ENCODERS);
    if let Some((imatrix, path)) = request.imatrix {
        let digest = imatrix::digest(path).map_err(|source| Error::Io { path: path.into(), source })?;
        m.set("allod.quantize.imatrix", format!("blake3:{digest}"));
        imatrix.stamp(path, m);
    }
    Ok(())
}

/// A digest of everything in a source: keys, and tensors by name whatever their order.
fn source_digest(source: &dyn WeightSource, pool: &Pool) -> Result<blake3::Hash, Error> {
    let mut names = source.names();
    names.sort();
    let digests: Vec<Mutex<Option<Result<blake3::Hash, allod_formats::Error>>>> =
        names.iter().map(|_| Mutex::new(None)).collect();
    pool.run(names.len(), |i| {
        let digest = source.tensor(&names[i]).map(|t| {
            let head = format!("{} {} {:?}", names[i], t.dtype, t.shape);
            let digest = blake3::Hasher::new().update(head.as_bytes()).update(&t.data).finalize();
            t.data.release();
            digest
        });
        *digests[i].lock().unwrap_or_else(PoisonError::into_inner) = Some(digest);
    });
    let mut all = blake3::Hasher::new();
    for (key, value) in source.metadata().iter() {
        all.update(format!("{key}={value:?}\n").as_bytes());
    }
    for d in digests {
        if let Some(d) = d.into_inner().unwrap_or_else(PoisonError::into_inner) {
            all.update(d?.as_bytes());
        }
    }
    Ok(all.finalize())
}

/// Numbers that a thread decodes and encodes at a time, about.
const PIECE: usize = 1 << 17;
/// Pieces between two writes.
const PIECES_AT_ONCE: usize = 64;

fn write(
    request: &Request,
    pool: &Pool,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    writer: &mut gguf::Writer,
    resumed: usize,
) -> Result<Report, Error> {
    let bytes_in = |c: &Choice| request.source.info(&c.name).and_then(|i| Tensor::bytes_of(i.dtype, &i.shape));
    let total = request.choices.iter().filter_map(bytes_in).map(|n| n as u64).sum();
    let mut report = Report { paths: vec![], tensors: vec![], resumed, bytes_in: total, bytes_out: 0, weights: 0 };
    let (start, mut done, mut at_start) = (Instant::now(), 0, 0);
    for (index, choice) in request.choices.iter().enumerate() {
        let tensor = request.source.tensor(&choice.name)?;
        let bytes = Tensor::bytes_of(choice.to, &tensor.shape).unwrap_or(0) as u64;
        let (mut error, size) = (None, tensor.data.len() as u64);
        if index < resumed {
            at_start += size;
        } else {
            let mut tell = |part: f64| {
                let done = done + (part * size as f64) as u64;
                let pace = start.elapsed().div_f64((done - at_start).max(1) as f64);
                let left = (done > at_start).then(|| pace.mul_f64((total - done) as f64));
                let count = request.choices.len();
                progress(Progress { tensor: &choice.name, index, count, done, total, left })
            };
            error = Work::new(request, choice, &tensor)?.write(pool, writer, &mut tell)?;
        }
        tensor.data.release();
        done += size;
        report.bytes_out += bytes;
        report.weights += tensor.len() as u64;
        report.tensors.push(TensorReport { choice: choice.clone(), bytes, error });
    }
    Ok(report)
}

/// One tensor on its way.
struct Work<'a> {
    origin: String,
    choice: &'a Choice,
    tensor: &'a Tensor,
    /// `[experts × columns]`.
    weights: Option<Vec<f32>>,
    measure: bool,
}

/// Squared error and squared values.
#[derive(Clone, Copy, Default)]
struct Loss {
    error: f64,
    square: f64,
}

type Piece = Result<(Vec<u8>, Loss), Error>;

impl<'a> Work<'a> {
    fn new(request: &Request, choice: &'a Choice, tensor: &'a Tensor) -> Result<Work<'a>, Error> {
        let info = TensorInfo { dtype: tensor.dtype, shape: tensor.shape.clone() };
        let weights = match request.imatrix {
            Some((m, _)) if choice.to != choice.from => m.weights(&choice.name, &info)?,
            _ => None,
        };
        Ok(Work { origin: request.source.origin(), choice, tensor, weights, measure: request.measure })
    }

    fn write(
        &self,
        pool: &Pool,
        writer: &mut gguf::Writer,
        tell: &mut dyn FnMut(f64) -> ControlFlow<()>,
    ) -> Result<Option<f64>, Error> {
        if self.choice.to == self.tensor.dtype {
            writer.append(&self.choice.name, &self.tensor.data)?;
            return if tell(1.0).is_break() { Err(Error::Stopped) } else { Ok(None) };
        }
        let pieces = self.pieces();
        let mut loss = Loss::default();
        for (i, some) in pieces.chunks(PIECES_AT_ONCE).enumerate() {
            let slots: Vec<Mutex<Option<Piece>>> = some.iter().map(|_| Mutex::new(None)).collect();
            pool.run(some.len(), |i| {
                let piece = self.encode(some[i]);
                *slots[i].lock().unwrap_or_else(PoisonError::into_inner) = Some(piece);
            });
            for slot in slots {
                let Some(piece) = slot.into_inner().unwrap_or_else(PoisonError::into_inner) else { continue };
                let (bytes, part) = piece?;
                writer.append(&self.choice.name, &bytes)?;
                loss.error += part.error;
                loss.square += part.square;
            }
            let part = ((i + 1) * PIECES_AT_ONCE).min(pieces.len()) as f64 / pieces.len() as f64;
            if tell(part).is_break() {
                return Err(Error::Stopped);
            }
        }
        Ok(self.measure.then(|| if loss.square > 0.0 { loss.error / loss.square } else { 0.0 }))
    }

    /// First row and number of rows of every piece; none reaches over two experts.
    fn pieces(&self) -> Vec<(usize, usize)> {
        let (columns, rows) = (self.tensor.columns(), self.tensor.rows());
        let most = (PIECE / columns.max(1)).max(1);
        let expert = self.rows_of_expert().max(1);
        let firsts = (0..rows).step_by(expert);
        firsts.flat_map(|e| (e..e + expert).step_by(most).map(move |r| (r, most.min(e + expert - r)))).collect()
    }

    fn rows_of_expert(&self) -> usize {
        let shape = &self.tensor.shape;
        shape.len().checked_sub(2).and_then(|i| shape.get(i)).copied().unwrap_or(1)
    }

    fn encode(&self, (first, rows): (usize, usize)) -> Piece {
        let (t, columns, to) = (self.tensor, self.tensor.columns(), self.choice.to);
        let fail =
            |e| Error::Decode { origin: self.origin.clone(), name: self.choice.name.clone(), source: Box::new(e) };
        let mut values = vec![0.0; rows * columns];
        let bytes = &t.data[first * t.row_bytes()..(first + rows) * t.row_bytes()];
        codec::decode(t.dtype, bytes, &mut values).map_err(fail)?;
        let expert = first / self.rows_of_expert().max(1);
        let weights = self.weights.as_ref().and_then(|w| w.get(expert * columns..(expert + 1) * columns));
        let mut out = Vec::new();
        encode::encode(to, columns, &values, weights, &mut out).map_err(|source| {
            let row = if let encode::Error::NotFinite { at, .. } = source { first + at / columns } else { first };
            Error::Encode { origin: self.origin.clone(), name: self.choice.name.clone(), row, source: Box::new(source) }
        })?;
        let loss =
            if self.measure { loss(to, columns, &values, weights, &out).map_err(fail)? } else { Loss::default() };
        Ok((out, loss))
    }
}

/// What the encoded values lost.
fn loss(to: DType, columns: usize, values: &[f32], w: Option<&[f32]>, encoded: &[u8]) -> Result<Loss, codec::Error> {
    let mut decoded = vec![0.0; values.len()];
    codec::decode(to, encoded, &mut decoded)?;
    let mut loss = Loss::default();
    for (x, y) in values.chunks_exact(columns).zip(decoded.chunks_exact(columns)) {
        let (mut error, mut square) = (0.0, 0.0);
        for i in 0..columns {
            let w = w.map_or(1.0, |w| f64::from(w[i]));
            let (x, e) = (f64::from(x[i]), f64::from(x[i]) - f64::from(y[i]));
            (error, square) = (error + w * e * e, square + w * x * x);
        }
        loss = Loss { error: loss.error + error, square: loss.square + square };
    }
    Ok(loss)
}

/// Squared error over squared values that a type would cost a tensor, from `sample` rows spread over it.
///
/// # Errors
/// [`Error::Encode`], [`Error::Decode`].
pub fn sampled_error(
    origin: &str,
    name: &str,
    tensor: &Tensor,
    to: DType,
    weights: Option<Vec<f32>>,
    sample: usize,
) -> Result<f64, Error> {
    let choice = Choice { name: name.into(), from: tensor.dtype, to, instead_of: None };
    let work = Work { origin: origin.into(), choice: &choice, tensor, weights, measure: true };
    let rows = tensor.rows();
    let mut loss = Loss::default();
    for i in 0..sample.min(rows) {
        let (_, part) = work.encode((i * rows / sample.min(rows), 1))?;
        loss = Loss { error: loss.error + part.error, square: loss.square + part.square };
    }
    Ok(if loss.square > 0.0 { loss.error / loss.square } else { 0.0 })
}

/// A tensor as it comes back from `to`, in F32, and the part of its power that was lost on the way.
///
/// # Errors
/// [`Error::Encode`], [`Error::Decode`], [`Error::Imatrix`].
pub(crate) fn rounded(
    source: &dyn WeightSource,
    name: &str,
    tensor: &Tensor,
    to: DType,
    imatrix: Option<&Imatrix>,
    pool: &Pool,
) -> Result<(Tensor, f64), Error> {
    let choice = Choice { name: name.into(), from: tensor.dtype, to, instead_of: None };
    let info = TensorInfo { dtype: tensor.dtype, shape: tensor.shape.clone() };
    let weights = imatrix.map(|m| m.weights(name, &info)).transpose()?.flatten();
    let work = Work { origin: source.origin(), choice: &choice, tensor, weights, measure: true };
    let pieces = work.pieces();
    let slots: Vec<Mutex<Option<Piece>>> = pieces.iter().map(|_| Mutex::new(None)).collect();
    pool.run(pieces.len(), |i| {
        *slots[i].lock().unwrap_or_else(PoisonError::into_inner) = Some(work.encode(pieces[i]));
    });
    let (mut values, mut loss) = (Vec::with_capacity(tensor.len()), Loss::default());
    for slot in slots {
        let Some(piece) = slot.into_inner().unwrap_or_else(PoisonError::into_inner) else { continue };
        let (bytes, part) = piece?;
        let start = values.len();
        values.resize(start + bytes.len() / to.block_bytes() * to.block(), 0.0);
        codec::decode(to, &bytes, &mut values[start..]).map_err(|e| Error::Decode {
            origin: source.origin(),
            name: name.into(),
            source: Box::new(e),
        })?;
        loss = Loss { error: loss.error + part.error, square: loss.square + part.square };
    }
    let lost = if loss.square > 0.0 { loss.error / loss.square } else { 0.0 };
    Ok((Tensor::from_f32(tensor.shape.clone(), &values), lost))
}
