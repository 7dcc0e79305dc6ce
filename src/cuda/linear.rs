//! Which of the kernels in `kernels/linear` computes a linear layer, and its grid.
//! All of them give the same bits.

use std::env;

use super::arguments::LinearArgument;
use super::defined::{LINEAR_FEW, LINEAR_MANY, LINEAR_PLAIN, LINEAR_TENSOR, defined};
use super::module::{Grid, Kernel, Order};
use super::network::STEP;
use super::{CudaError, Device, During, Format, Result};

/// Takes the kernel of this name for all rows, to be compared.
const FORCED: &str = "GPT2_CUDA_LINEAR";

/// Rows that the kernel for few is always taken for, and up to which it is where
/// the one for some would leave multiprocessors without work: it reads the
/// weights once for 16 rows.
const FEW: usize = 16;
const MOST_FEW: usize = 64;

/// Rows up to which the kernel for few is taken in f32.
const PLAIN_FEW: usize = 32;

/// Inputs that are summed before the sums are.
const CHUNK: usize = defined(LINEAR_TENSOR, "CHUNK");

/// Warps of a block that share the chunks of a sum.
const MOST_WARPS: usize = defined(LINEAR_TENSOR, "MOST_WARPS");

/// Warps of the kernel for few rows on a multiprocessor: enough weights are
/// under way, and blocks of the next kernel have room to ask for theirs.
const FEW_WARPS: usize = 16;

/// Rows up to which each block of the kernel for few computes a LayerNorm for
/// itself, and the numbers of a row.
const NORMED_ROWS: usize = defined(LINEAR_FEW, "NORMED_ROWS");
const MOST_WIDTH: usize = defined(LINEAR_FEW, "MOST_WIDTH");

/// Rows and outputs of a block for some.
const SOME_ROWS: usize = defined(LINEAR_MANY, "SOME_ROWS");
const SOME_OUTPUTS: usize = defined(LINEAR_MANY, "SOME_OUTPUTS");

/// Rows and outputs of a block for many, and its threads.
const TILE: usize = defined(LINEAR_MANY, "TILE");
const MANY_THREADS: usize = defined(LINEAR_MANY, "MANY_THREADS");

/// Rows and outputs of a block for many in f32, and its threads, each of which
/// has so many of both.
const PLAIN_TILE: usize = defined(LINEAR_PLAIN, "PLAIN_TILE");
const PLAIN_THREADS: usize = (PLAIN_TILE / defined(LINEAR_PLAIN, "PLAIN_EACH")).pow(2);

/// Parts of a sum in f32, each of `STEP` inputs, and rows of a block for few.
const PLAIN_PARTS: usize = defined(LINEAR_PLAIN, "PLAIN_PARTS");
const PLAIN_ROWS: usize = defined(LINEAR_PLAIN, "PLAIN_ROWS");

/// The kernels of a format.
#[derive(Debug)]
pub(super) struct Linear {
    device: Device,
    multiprocessors: usize,
    few: Kernel,
    many: Kernel,
    /// Those that only tensor cores have.
    tensor: Option<Tensor>,
    /// What is taken whatever the rows.
    forced: Option<Way>,
}

#[derive(Debug)]
struct Tensor {
    normed: Kernel,
    some: Kernel,
}

/// For how many rows a kernel is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Few,
    Some,
    Many,
}

impl Linear {
    pub(super) fn new(device: &Device, format: Format) -> Result<Self> {
        let kernel = |name| device.kernel(name, format);
        Ok(Self {
            multiprocessors: device.multiprocessors()?,
            device: device.clone(),
            few: kernel("linear_few")?,
            many: kernel("linear_many")?,
            tensor: match format {
                Format::F32 => None,
                Format::Bf16 | Format::F16 => Some(Tensor {
                    normed: kernel("linear_normed")?,
                    some: kernel("linear_some")?,
                }),
            },
            forced: forced()?,
        })
    }

    /// Whether [`launch`](Self::launch) computes the LayerNorm before a layer of
    /// `k` inputs, too.
    pub(super) fn norms(&self, rows: usize, k: usize) -> bool {
        let takes_few = matches!(self.forced, None | Some(Way::Few));
        self.tensor.is_some() && takes_few && rows <= NORMED_ROWS && k <= MOST_WIDTH
    }

    /// Computes a layer.
    pub(super) fn launch(&self, argument: LinearArgument) -> Result<()> {
        let sizes = [argument.rows, argument.n, argument.k];
        let [rows, n, k] = sizes.map(|size| size as usize);
        let (kernel, grid) = match &self.tensor {
            None => match self.forced.unwrap_or(plain_way(rows)) {
                Way::Few => (&self.few, plain_few_grid(rows, n, k)),
                Way::Some | Way::Many => {
                    let grid = Grid(
                        n.div_ceil(PLAIN_TILE),
                        rows.div_ceil(PLAIN_TILE),
                        PLAIN_THREADS,
                    );
                    (&self.many, grid)
                }
            },
            // The LayerNorm comes with it.
            Some(tensor) if argument.x == 0 => (&tensor.normed, self.few_grid(rows, n, k)),
            Some(tensor) => match self.forced.unwrap_or(self.way(rows, n)) {
                Way::Few => (&self.few, self.few_grid(rows, n, k)),
                Way::Some => {
                    let (x, y) = some_blocks(rows, n);
                    (&tensor.some, Grid(x, y, threads_for(k)))
                }
                Way::Many => {
                    let (x, y) = many_blocks(rows, n);
                    (&self.many, Grid(x, y, MANY_THREADS))
                }
            },
        };
        let mut launch = kernel.begin();
        launch.arg(&argument);
        // SAFETY: `pass.rs` gives memory of these shapes, and the kernels look
        // at no row and no output beyond `rows` and `n`.
        unsafe { launch.launch(&self.device.stream, grid, Order::Overlapping) }.during("linear")
    }

    /// What is best on tensor cores.
    fn way(&self, rows: usize, n: usize) -> Way {
        let fill = |(x, y): (usize, usize), share: usize| x * y * share >= self.multiprocessors;
        if rows <= FEW || rows <= MOST_FEW && !fill(some_blocks(rows, n), 1) {
            Way::Few
        } else if rows > MOST_FEW && fill(many_blocks(rows, n), 2) {
            Way::Many
        } else {
            Way::Some
        }
    }

    fn few_grid(&self, rows: usize, n: usize, k: usize) -> Grid {
        // Two warps end the sums.
        let threads = threads_for(k).max(64);
        let most = (32 * FEW_WARPS / threads).max(1) * self.multiprocessors;
        Grid(few_blocks(n.div_ceil(8), most), rows.div_ceil(16), threads)
    }
}

/// What [`FORCED`] asks for.
fn forced() -> Result<Option<Way>> {
    let Some(value) = env::var_os(FORCED) else {
        return Ok(None);
    };
    match value.to_str() {
        Some("few") => Ok(Some(Way::Few)),
        Some("some") => Ok(Some(Way::Some)),
        Some("many") => Ok(Some(Way::Many)),
        _ => {
            let value = value.display();
            let message = format!("{FORCED}={value}; the kernels are few, some and many");
            Err(CudaError::Unsupported(message))
        }
    }
}

fn plain_way(rows: usize) -> Way {
    match rows <= PLAIN_FEW {
        true => Way::Few,
        false => Way::Many,
    }
}

fn plain_few_grid(rows: usize, n: usize, k: usize) -> Grid {
    let parts = k.div_ceil(STEP).clamp(4, PLAIN_PARTS);
    Grid(n.div_ceil(8), rows.div_ceil(PLAIN_ROWS), 8 * parts)
}

/// Threads of a block with a warp for a chunk of `k` inputs; where there are
/// more of these than warps, of a small block, of which several run at a time.
fn threads_for(k: usize) -> usize {
    let chunks = k.div_ceil(CHUNK);
    let rounds = match chunks <= MOST_WARPS {
        true => 1,
        false => chunks.div_ceil(MOST_WARPS / 2),
    };
    32 * chunks.div_ceil(rounds)
}

/// Blocks, of `most` at most, that share `outputs` as evenly as can be: each of
/// them has as many turns.
fn few_blocks(outputs: usize, most: usize) -> usize {
    outputs.div_ceil(outputs.div_ceil(most))
}

fn some_blocks(rows: usize, n: usize) -> (usize, usize) {
    (n.div_ceil(SOME_OUTPUTS), rows.div_ceil(SOME_ROWS))
}

fn many_blocks(rows: usize, n: usize) -> (usize, usize) {
    (n.div_ceil(TILE), rows.div_ceil(TILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_as_many_turns_as_each_other() {
        // 600 blocks of 8 outputs in three turns.
        assert_eq!(few_blocks(600, 264), 200);
        assert_eq!([few_blocks(96, 528), few_blocks(1, 1)], [96, 1]);
    }

    #[test]
    fn a_warp_has_a_chunk_and_a_block_no_more_warps_than_fit() {
        assert_eq!([1, 256, 257, 4096].map(threads_for), [32, 32, 64, 512]);
        // 25 chunks in four turns of seven warps.
        assert_eq!(threads_for(6400), 224);
    }
}
