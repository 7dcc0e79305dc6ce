//! Steps of decoding, recorded as CUDA graphs and repeated.

use std::env;
use std::fmt;
use std::sync::{Arc, Weak};

use cudarc::driver::{CudaGraph, CudaStream, result, sys};

use super::launch::Kernels;
use super::network::{Cache, Network};
use super::pass::{Pass, Rows, Wanted};
use super::pending::{Memory, Pending};
use super::sample::Pick;
use super::scratch::{Inputs, Layout, Room, Scratch};
use super::{BLOCK, CudaError, Device, During, Result};
use crate::kernels::pool;

/// `0` launches the kernels of a step as those of any pass, to be compared, and
/// for a driver that would not record them.
const GRAPHS: &str = "GPT2_CUDA_GRAPHS";

const NO_FLAGS: sys::CUgraphInstantiate_flags = sys::CUgraphInstantiate_flags(0);

/// A step that was recorded, with the memory that its launches name.
pub(super) struct Step {
    graph: CudaGraph,
    pub(super) scratch: Scratch,
    /// Its stream, and the kernels that the graph names.
    device: Device,
    /// The number of its cache, as long as that is there.
    cache: Weak<u64>,
}

// SAFETY: a graph belongs to its context, not to a thread; `launch` binds the
// context to the thread that calls it. Whoever takes a step out of the
// network has it alone.
unsafe impl Send for Step {}

impl Step {
    /// Launches it in the order of the device's stream.
    fn launch(&self) -> Result<()> {
        let stream = &self.device.stream;
        let bound = stream.context().bind_to_thread();
        let what = "a recorded step";
        bound.during(what)?;
        let (graph, stream) = (self.graph.cu_graph_exec(), stream.cu_stream());
        // SAFETY: both are of the device's context; the graph lives as long as
        // the step, and its memory with it.
        unsafe { result::graph::launch(graph, stream) }.during(what)
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Step({})", self.scratch.room.rows)
    }
}

impl Network {
    /// Whether steps are recorded.
    pub(super) fn records() -> bool {
        env::var_os(GRAPHS).is_none_or(|value| value != "0")
    }

    /// Whether a step is for [`decode`](Self::decode); else it is a pass like
    /// others.
    pub fn records_steps(&self) -> bool {
        self.records_steps
    }

    /// Launches the next token of each of several sequences: a row for each, of
    /// which each is wanted. What is launched is recorded once for each power
    /// of two and then repeated, so that the processor has little to do; the
    /// bits are those of a [`Pass`].
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub fn decode(&self, rows: Rows<'_>, cache: &mut Cache, wanted: Wanted<'_>) -> Result<Pending> {
        rows.check(&self.shape, cache)?;
        let count = rows.tokens.len();
        wanted.check(&self.shape, count)?;
        if wanted.rows.len() != count || !rows.one_each() {
            let message = "a step of which not every row is wanted, and of its own sequence";
            return Err(CudaError::Unsupported(message.to_owned()));
        }
        let bucket = count.next_power_of_two();
        let key = (bucket, *cache.number);
        let recorded = pool::lock(&self.steps).remove(&key);
        let mut step = match recorded {
            Some(step) => step,
            None => self.record(bucket, cache)?,
        };
        let inputs = Inputs { rows, wanted };
        step.scratch.write(self, inputs, self.layout(bucket))?;
        step.launch()?;
        step.scratch.send_choices(self, wanted.picks)?;
        Ok(Pending {
            memory: Memory::Step(key, step),
            picks: wanted.picks.to_vec(),
        })
    }

    /// Every row of a step gets logits, and has room for a whole context.
    fn layout(&self, rows: usize) -> Layout {
        Layout {
            rows,
            wanted: rows,
            stride: self.shape.n_positions.div_ceil(BLOCK),
        }
    }

    /// Records the launches of a step of so many rows.
    fn record(&self, bucket: usize, cache: &mut Cache) -> Result<Step> {
        self.forget()?;
        let layout = self.layout(bucket);
        let mut scratch = Scratch::new(
            self,
            Room {
                rows: bucket,
                tables: bucket * layout.stride,
                logit_rows: bucket,
            },
        )?;
        let places = scratch.write(self, Inputs::default(), layout)?;
        let mut pass = Pass {
            network: self,
            kernels: &self.kernels,
            scratch,
            rows: bucket,
            positions: Vec::new(),
            places,
            picks: vec![Pick::WHOLE_ROW; bucket],
        };
        // Once as it is, without a row that counts: the driver may load a
        // kernel when it is first launched, which it can't while it records.
        pass.launch_all(cache)?;
        self.device.wait()?;
        // On a stream of its own: whatever another thread launches meanwhile
        // would be recorded, too.
        let beside = self.device.beside()?;
        let kernels = Kernels::new(&beside, self.format)?;
        pass.kernels = &kernels;
        let stream = &beside.stream;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream.begin_capture(mode).during("recording")?;
        let launched = pass.launch_all(cache);
        // The recording ends whatever came of it.
        let graph = stream.end_capture(NO_FLAGS).during("recording a step");
        if graph.is_err() {
            abandon(stream);
        }
        launched?;
        let graph = graph?.ok_or_else(|| CudaError::Unsupported("nothing was recorded".into()))?;
        Ok(Step {
            graph,
            scratch: pass.scratch,
            device: self.device.clone(),
            cache: Arc::downgrade(&cache.number),
        })
    }

    /// Gives back the steps of caches that are gone. One that is under way isn't
    /// among them: its pass has it.
    fn forget(&self) -> Result<()> {
        let bound = self.device.stream.context().bind_to_thread();
        bound.during("recorded steps")?;
        pool::lock(&self.steps).retain(|_, step| step.cache.strong_count() > 0);
        Ok(())
    }
}

/// Ends a recording that goes on: what failed earlier, where nobody could be
/// told, cudarc says before it ends one.
fn abandon(stream: &CudaStream) {
    // SAFETY: the stream is there; one that no longer records is an error, and
    // nothing else.
    let graph = unsafe { result::stream::end_capture(stream.cu_stream()) };
    if let Ok(graph) = graph
        && !graph.is_null()
    {
        // SAFETY: nobody else has the graph. An error was reported already.
        let _ = unsafe { result::graph::destroy(graph) };
    }
}
