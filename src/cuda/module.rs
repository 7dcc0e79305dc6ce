//! The kernels as the driver loads and launches them.

use std::env;
use std::ffi::{CString, c_void};
use std::fmt;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream, DeviceRepr, result, sys};

use super::{CudaError, During, Result};

/// Bytes where the driver may read words.
#[repr(align(64))]
struct Aligned<T: ?Sized>(T);

/// `kernels.cu`, compiled for several architectures.
static KERNELS: &Aligned<[u8]> =
    &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin")));

/// From this compute capability on, a kernel may be launched while the one
/// before it runs.
const OVERLAPS_FROM: (i32, i32) = (9, 0);

/// Shared memory of a multiprocessor, of what it and the first cache have
/// together: the same for all kernels, or one that wants another share waits
/// until the one before it is gone. The driver takes the next larger share that
/// the device has: 132 of 228 KiB on a Hopper.
const SHARED_PERCENT: i32 = 57;

/// `0` launches each kernel after the one before it, to be compared.
const OVERLAP: &str = "GPT2_CUDA_OVERLAP";

/// All kernels, loaded into a context.
pub(super) struct Module {
    module: sys::CUmodule,
    context: Arc<CudaContext>,
    overlaps: bool,
}

// SAFETY: a module belongs to its context, not to a thread, and nothing of it
// changes after it is loaded.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

impl Module {
    pub(super) fn load(context: &Arc<CudaContext>) -> Result<Self> {
        let what = "loading the kernels (a device of at least 8.0 is needed)";
        context.bind_to_thread().during(what)?;
        // SAFETY: the image is a whole one, as nvcc made it.
        let module = unsafe { result::module::load_data(KERNELS.0.as_ptr().cast()) };
        let can_overlap = context.compute_capability().during(what)? >= OVERLAPS_FROM;
        Ok(Self {
            module: module.during(what)?,
            context: context.clone(),
            overlaps: can_overlap && env::var_os(OVERLAP).is_none_or(|value| value != "0"),
        })
    }

    pub(super) fn kernel(self: &Arc<Self>, name: &str) -> Result<Kernel> {
        let c_name = CString::new(name);
        let c_name = c_name.map_err(|e| CudaError::Unsupported(e.to_string()))?;
        // SAFETY: the module is loaded.
        let function = unsafe { result::module::get_function(self.module, c_name) };
        let function = function.during(name)?;
        let attribute =
            sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
        // SAFETY: the function is one of the module's, which is loaded.
        let set = unsafe { sys::cuFuncSetAttribute(function, attribute, SHARED_PERCENT) };
        set.result().during(name)?;
        Ok(Kernel {
            function,
            module: self.clone(),
        })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // A context that fails has nothing to unload any more.
        let _ = self.context.bind_to_thread();
        // SAFETY: it was loaded, and each of its kernels held it.
        let _ = unsafe { result::module::unload(self.module) };
    }
}

/// A kernel of a loaded module.
pub(super) struct Kernel {
    function: sys::CUfunction,
    module: Arc<Module>,
}

// SAFETY: as for `Module`, which it holds.
unsafe impl Send for Kernel {}
// SAFETY: as above.
unsafe impl Sync for Kernel {}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kernel")
    }
}

/// When a kernel begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// After all that was asked before.
    After,
    /// While the kernel before it still runs, where the device can: it waits
    /// for that one itself (`after_previous` in `device.cuh`).
    Overlapping,
}

/// Blocks in x and y, and the threads of each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid(pub usize, pub usize, pub usize);

/// A launch that is being put together.
pub(super) struct Launch<'a> {
    kernel: &'a Kernel,
    arguments: Vec<*mut c_void>,
}

impl Kernel {
    pub(super) fn begin(&self) -> Launch<'_> {
        Launch {
            kernel: self,
            arguments: Vec::new(),
        }
    }
}

impl<'a> Launch<'a> {
    /// Adds an argument, which the driver copies at the launch.
    pub(super) fn arg<T: DeviceRepr>(&mut self, argument: &'a T) -> &mut Self {
        self.arguments.push(std::ptr::from_ref(argument) as *mut _);
        self
    }

    /// Launches it.
    ///
    /// # Safety
    /// The arguments are those of the kernel, and the memory that they name is
    /// as large as it takes.
    pub(super) unsafe fn launch(
        &mut self,
        stream: &CudaStream,
        Grid(x, y, threads): Grid,
        order: Order,
    ) -> std::result::Result<(), cudarc::driver::DriverError> {
        let module = &self.kernel.module;
        module.context.bind_to_thread()?;
        let mut overlapping = sys::CUlaunchAttribute_st {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue_union {
                programmaticStreamSerializationAllowed: 1,
            },
        };
        let overlaps = order == Order::Overlapping && module.overlaps;
        let config = sys::CUlaunchConfig_st {
            gridDimX: x as u32,
            gridDimY: y as u32,
            gridDimZ: 1,
            blockDimX: threads as u32,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: 0,
            hStream: stream.cu_stream(),
            attrs: &raw mut overlapping,
            numAttrs: u32::from(overlaps),
        };
        let arguments = self.arguments.as_mut_ptr();
        // SAFETY: the stream is one of the module's context; the driver reads
        // the configuration and, as the caller promises, the arguments that the
        // kernel has, and keeps neither.
        unsafe {
            let launched = sys::cuLaunchKernelEx(
                &raw const config,
                self.kernel.function,
                arguments,
                std::ptr::null_mut(),
            );
            launched.result()
        }
    }
}
