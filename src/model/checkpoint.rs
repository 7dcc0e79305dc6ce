//! The tensors of a checkpoint, whatever its file format, read as f32.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::pickle::PthTensors;
use candle_core::{DType, Device};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorInfo};
use serde_json::{Map, Value};

use super::ModelError;
use super::files::{Reader, Source, WeightFiles};

/// Bytes that one positioned read takes: they stay in the second cache until
/// they are converted.
const READ_BYTES: usize = 1 << 18;
/// The safetensors format's own bound on its header.
const MAX_HEADER: u64 = 100_000_000;

impl WeightFiles {
    /// The dtype in which most of the weights are stored, such as `f32`, from
    /// the files' headers.
    ///
    /// # Errors
    /// [`ModelError`] when a file is missing or its header malformed.
    pub fn stored_dtype(&self) -> Result<String, ModelError> {
        Ok(Checkpoint::open(self)?.main_dtype())
    }
}

/// An opened checkpoint; nothing but headers has been read yet.
pub(super) struct Checkpoint {
    /// The file that messages about missing tensors name.
    pub(super) name: String,
    tensors: HashMap<String, Entry>,
    files: Vec<Reader>,
    pickle: Option<PthTensors>,
}

struct Entry {
    file: usize,
    shape: Vec<usize>,
    stored: Stored,
}

enum Stored {
    /// `dtype` values at byte `offset` of a safetensors file.
    Raw { dtype: Dtype, offset: u64 },
    /// A tensor of a pickle.
    Pickled(DType),
}

impl Checkpoint {
    pub(super) fn open(files: &WeightFiles) -> Result<Self, ModelError> {
        match files {
            WeightFiles::Safetensors(source) => {
                let mut checkpoint = Self::empty(source.name());
                checkpoint.add_safetensors(source)?;
                Ok(checkpoint)
            }
            WeightFiles::Sharded { index } => Self::open_sharded(index),
            WeightFiles::Pickle(path) => Self::open_pickle(path),
        }
    }

    fn empty(name: String) -> Self {
        Self {
            name,
            tensors: HashMap::new(),
            files: Vec::new(),
            pickle: None,
        }
    }

    fn open_sharded(index: &Path) -> Result<Self, ModelError> {
        #[derive(serde::Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let source = Source::File(index.to_owned());
        let mut checkpoint = Self::empty(source.name());
        let fail = |reason: String| ModelError::Checkpoint {
            file: source.name(),
            reason,
        };
        let parsed: Index = serde_json::from_slice(&source.read()?)
            .map_err(|e| fail(format!("not a safetensors index: {e}")))?;
        let folder = index.parent().unwrap_or(Path::new("."));
        let mut shards: Vec<&String> = parsed.weight_map.values().collect();
        shards.sort();
        shards.dedup();
        for shard in shards {
            if !is_plain_file_name(shard) {
                let reason = "is not the name of a file in the same folder";
                return Err(fail(format!("field `weight_map`: {shard:?} {reason}")));
            }
            checkpoint.add_safetensors(&Source::File(folder.join(shard)))?;
        }
        for (tensor, shard) in &parsed.weight_map {
            if !checkpoint.tensors.contains_key(tensor) {
                let reason = format!("the index places it in {shard}, which does not hold it");
                return Err(ModelError::tensor(&source.name(), tensor, reason));
            }
        }
        Ok(checkpoint)
    }

    fn open_pickle(path: &Path) -> Result<Self, ModelError> {
        let source = Source::File(path.to_owned());
        let mut checkpoint = Self::empty(source.name());
        let fail = |reason: String| ModelError::Checkpoint {
            file: source.name(),
            reason,
        };
        let reader = source.open()?;
        let mut magic = [0; 4];
        if reader.len < 4 || reader.read_exact_at(&mut magic, 0).is_err() || &magic != b"PK\x03\x04"
        {
            return Err(fail(
                "not a zip archive. Checkpoints in PyTorch's legacy format (before 1.6) are not \
                 read: load it in Python and save it again with save_pretrained(..., \
                 safe_serialization=True), or torch.save"
                    .to_owned(),
            ));
        }
        let pickle = PthTensors::new(path, None).map_err(|e| fail(e.to_string()))?;
        for (name, info) in pickle.tensor_infos() {
            let entry = Entry {
                file: 0,
                shape: info.layout.dims().to_vec(),
                stored: Stored::Pickled(info.dtype),
            };
            checkpoint.tensors.insert(name.clone(), entry);
        }
        checkpoint.files.push(reader);
        checkpoint.pickle = Some(pickle);
        Ok(checkpoint)
    }

    fn add_safetensors(&mut self, source: &Source) -> Result<(), ModelError> {
        let reader = source.open()?;
        let (header, data_start) = read_header(&reader)?;
        check_offsets(&reader, &header, data_start)?;
        for (name, info) in header {
            let entry = Entry {
                file: self.files.len(),
                shape: info.shape,
                stored: Stored::Raw {
                    dtype: info.dtype,
                    offset: data_start + info.data_offsets.0 as u64,
                },
            };
            if self.tensors.insert(name.clone(), entry).is_some() {
                let reason = "is in two shards";
                return Err(ModelError::tensor(&reader.name, &name, reason));
            }
        }
        self.files.push(reader);
        Ok(())
    }

    pub(super) fn contains(&self, tensor: &str) -> bool {
        self.tensors.contains_key(tensor)
    }

    /// Elements of all tensors.
    pub(super) fn elements(&self) -> usize {
        let elements = |e: &Entry| e.shape.iter().product::<usize>();
        self.tensors.values().map(elements).sum()
    }

    /// The dtype that most elements are stored in.
    fn main_dtype(&self) -> String {
        let mut elements: BTreeMap<String, usize> = BTreeMap::new();
        for entry in self.tensors.values() {
            let dtype = match &entry.stored {
                Stored::Raw { dtype, .. } => format!("{dtype:?}"),
                Stored::Pickled(dtype) => format!("{dtype:?}"),
            };
            *elements.entry(dtype.to_lowercase()).or_default() +=
                entry.shape.iter().product::<usize>();
        }
        let most = elements.into_iter().max_by_key(|(_, count)| *count);
        most.map_or_else(|| "no tensors".to_owned(), |(dtype, _)| dtype)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Checks that `tensor` is there with this shape and a float dtype.
    pub(super) fn expect(&self, tensor: &str, shape: &[usize]) -> Result<(), ModelError> {
        let entry = self.entry(tensor)?;
        let file = &self.files[entry.file].name;
        if entry.shape != shape {
            let reason = format!("shape {:?}, expected {shape:?}", entry.shape);
            return Err(ModelError::tensor(file, tensor, reason));
        }
        let dtype = match &entry.stored {
            Stored::Raw {
                dtype: Dtype::F32 | Dtype::F16 | Dtype::BF16,
                ..
            }
            | Stored::Pickled(DType::F32 | DType::F16 | DType::BF16) => return Ok(()),
            Stored::Raw { dtype, .. } => format!("{dtype:?}"),
            Stored::Pickled(dtype) => format!("{dtype:?}"),
        };
        let reason = format!("dtype {dtype}, expected F32, F16 or BF16");
        Err(ModelError::tensor(file, tensor, reason))
    }

    /// Opens `tensor` for reading.
    pub(super) fn tensor(&self, tensor: &str) -> Result<TensorReader<'_>, ModelError> {
        let entry = self.entry(tensor)?;
        let values = match entry.stored {
            Stored::Raw { dtype, offset } => Values::File { dtype, offset },
            Stored::Pickled(_) => Values::Read(self.read_pickled(tensor)?),
        };
        Ok(TensorReader {
            name: tensor.to_owned(),
            file: &self.files[entry.file],
            len: entry.shape.iter().product(),
            values,
        })
    }

    fn read_pickled(&self, tensor: &str) -> Result<Vec<f32>, ModelError> {
        let fail = |reason: String| ModelError::tensor(&self.name, tensor, reason);
        let pickle = self
            .pickle
            .as_ref()
            .ok_or_else(|| fail("no pickle".to_owned()))?;
        let offset = pickle
            .tensor_infos()
            .get(tensor)
            .map(|i| i.layout.start_offset());
        if offset != Some(0) {
            return Err(fail("is a view into a larger storage".to_owned()));
        }
        pickle
            .get(tensor)
            .and_then(|t| t.ok_or_else(|| candle_core::Error::Msg("not found".to_owned())))
            .and_then(|t| {
                t.to_dtype(DType::F32)?
                    .to_device(&Device::Cpu)?
                    .flatten_all()
            })
            .and_then(|t| t.to_vec1())
            .map_err(|e| fail(e.to_string()))
    }

    fn entry(&self, tensor: &str) -> Result<&Entry, ModelError> {
        self.tensors
            .get(tensor)
            .ok_or_else(|| ModelError::tensor(&self.name, tensor, "missing"))
    }
}

/// A tensor of a checkpoint, read in parts, by several threads if they like.
pub(super) struct TensorReader<'a> {
    name: String,
    file: &'a Reader,
    len: usize,
    values: Values,
}

enum Values {
    /// `dtype` values from byte `offset` on.
    File { dtype: Dtype, offset: u64 },
    /// All of them.
    Read(Vec<f32>),
}

impl TensorReader<'_> {
    /// Elements.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Reads the elements from `first` on, as f32, each checked to be a number
    /// of at most `largest` in magnitude.
    pub(super) fn read(
        &self,
        first: usize,
        out: &mut [f32],
        largest: f32,
    ) -> Result<(), ModelError> {
        match &self.values {
            Values::File { dtype, offset } => {
                let width = dtype.bitsize() / 8;
                let mut bytes = vec![0; out.len().min(READ_BYTES / width) * width];
                let parts = out.chunks_mut(READ_BYTES / width).enumerate();
                for (i, out) in parts {
                    let bytes = &mut bytes[..out.len() * width];
                    let at = first * width + i * READ_BYTES;
                    self.file.read_exact_at(bytes, offset + at as u64)?;
                    to_f32(*dtype, bytes, out);
                }
            }
            Values::Read(values) => out.copy_from_slice(&values[first..first + out.len()]),
        }
        // A sum of flags instead of an early end: compilers vectorise it.
        let fits = |v: &f32| v.abs() <= largest;
        let all_fit = out.iter().fold(true, |all, v| all & fits(v));
        if let (false, Some(at)) = (all_fit, out.iter().position(|v| !fits(v))) {
            let mut reason = format!("element {} is {}", first + at, out[at]);
            if out[at].is_finite() {
                reason += &format!("; this dtype holds up to {largest}");
            }
            return Err(ModelError::tensor(&self.file.name, &self.name, reason));
        }
        Ok(())
    }
}

fn is_plain_file_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!(parts.next(), Some(std::path::Component::Normal(part)) if part == name)
        && parts.next().is_none()
        && !name.contains(['\\', '\0', ':'])
}

/// The tensors that the header of a safetensors file lists, in the order of
/// their data, and the byte at which the data starts.
fn read_header(reader: &Reader) -> Result<(Vec<(String, TensorInfo)>, u64), ModelError> {
    let fail = |reason: String| ModelError::Checkpoint {
        file: reader.name.clone(),
        reason,
    };
    let mut length = [0; 8];
    if reader.len < 8 {
        return Err(fail(format!(
            "only {} bytes: not a safetensors file",
            reader.len
        )));
    }
    reader.read_exact_at(&mut length, 0)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER || length > reader.len - 8 {
        return Err(fail(format!(
            "says its header has {length} bytes, but the file has {} and a header at most \
             {MAX_HEADER}: truncated, or not a safetensors file",
            reader.len
        )));
    }
    // Bounded above by MAX_HEADER, so it fits.
    let mut header = vec![0; length as usize];
    reader.read_exact_at(&mut header, 8)?;
    let malformed = |e: serde_json::Error| fail(format!("malformed header: {e}"));
    let fields: Map<String, Value> = serde_json::from_slice(&header).map_err(malformed)?;
    let mut tensors = Vec::new();
    for (name, value) in fields
        .into_iter()
        .filter(|(name, _)| name != "__metadata__")
    {
        let info: TensorInfo = serde_json::from_value(value).map_err(|e| {
            ModelError::tensor(&reader.name, &name, format!("malformed in the header: {e}"))
        })?;
        tensors.push((name, info));
    }
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    Ok((tensors, 8 + length))
}

/// Offsets must cover the data exactly: no overlap, no hole, no missing end.
fn check_offsets(
    reader: &Reader,
    tensors: &[(String, TensorInfo)],
    start: u64,
) -> Result<(), ModelError> {
    let mut end = 0;
    for (name, info) in tensors {
        let (from, to) = info.data_offsets;
        let fail = |reason: String| ModelError::tensor(&reader.name, name, reason);
        if from != end {
            let what = if from < end {
                "overlaps another tensor"
            } else {
                "leaves a hole"
            };
            return Err(fail(format!(
                "starts at byte {from} of the data, expected {end}: {what}"
            )));
        }
        let elements = info.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let size = elements.and_then(|n| n.checked_mul(info.dtype.bitsize()));
        if size.is_none_or(|bits| to < from || (to - from).checked_mul(8) != Some(bits)) {
            let shape = &info.shape;
            let reason = format!("bytes {from}..{to} don't fit {:?} {shape:?}", info.dtype);
            return Err(fail(reason));
        }
        if to as u64 > reader.len - start {
            let have = reader.len - start;
            return Err(fail(format!(
                "ends at byte {to} of the data, of which {have} are there: the file is truncated"
            )));
        }
        end = to;
    }
    if end as u64 != reader.len - start {
        return Err(ModelError::Checkpoint {
            file: reader.name.clone(),
            reason: format!(
                "{} bytes follow the last tensor",
                reader.len - start - end as u64
            ),
        });
    }
    Ok(())
}

/// Widens little-endian values; `bytes` holds as many as `values`.
fn to_f32(dtype: Dtype, bytes: &[u8], values: &mut [f32]) {
    match dtype {
        Dtype::F16 => {
            for (v, b) in values.iter_mut().zip(bytes.as_chunks().0) {
                *v = f16::from_le_bytes(*b).to_f32();
            }
        }
        Dtype::BF16 => {
            for (v, b) in values.iter_mut().zip(bytes.as_chunks().0) {
                *v = bf16::from_le_bytes(*b).to_f32();
            }
        }
        // `expect` let no other dtype through.
        _ => {
            for (v, b) in values.iter_mut().zip(bytes.as_chunks().0) {
                *v = f32::from_le_bytes(*b);
            }
        }
    }
}
