//! A device that is open: its stream, its kernels, its memory.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::{
    CudaContext, CudaEvent, CudaSlice, CudaStream, DevicePtr, DeviceRepr, PinnedHostSlice,
    ValidAsZeroBits, sys,
};

use super::module::{Kernel, Module};
use super::{CudaError, During, Format, Result};

/// An open device. Everything on it happens in the order of one stream.
#[derive(Clone)]
pub struct Device {
    pub(super) stream: Arc<CudaStream>,
    module: Arc<Module>,
}

impl Device {
    /// Opens the device of this number.
    ///
    /// # Errors
    /// [`CudaError`]: there is no driver, or no such device.
    pub fn open(ordinal: usize) -> Result<Self> {
        // SAFETY: loading the driver's library runs its initialisation, which
        // is what any use of it does.
        if !unsafe { sys::is_culib_present() } {
            return Err(CudaError::NoDriver);
        }
        let opening = format_args!("device {ordinal}");
        let context = CudaContext::new(ordinal).during(opening)?;
        // SAFETY: events order the streams of a context; this has one on which
        // anything runs. What the host shares with the device has an event of
        // its own: `Pinned`.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().during(opening)?;
        let module = Arc::new(Module::load(&context)?);
        Ok(Self { stream, module })
    }

    /// The same device with a stream of its own, to record there what another
    /// thread's launches must not get into.
    pub(super) fn beside(&self) -> Result<Self> {
        let stream = self.stream.context().new_stream();
        Ok(Self {
            stream: stream.during("a stream to record on")?,
            module: self.module.clone(),
        })
    }

    /// The device's number.
    pub fn ordinal(&self) -> usize {
        self.stream.context().ordinal()
    }

    /// The device's name.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub fn name(&self) -> Result<String> {
        self.stream.context().name().during("its name")
    }

    /// Bytes of memory that nobody uses.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    pub fn free_memory(&self) -> Result<usize> {
        let info = self.stream.context().mem_get_info();
        Ok(info.during("its free memory")?.0)
    }

    /// How many blocks of threads it computes at a time, at least.
    pub(super) fn multiprocessors(&self) -> Result<usize> {
        let count = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let count = self.stream.context().attribute(count);
        Ok(count.during("its multiprocessors")?.max(1) as usize)
    }

    /// The kernel of this name for a format.
    pub(super) fn kernel(&self, name: &str, format: Format) -> Result<Kernel> {
        self.named_kernel(&format!("{name}_{}", format.suffix()))
    }

    pub(super) fn named_kernel(&self, name: &str) -> Result<Kernel> {
        self.module.kernel(name)
    }

    /// Until all that was asked is done.
    pub(super) fn wait(&self) -> Result<()> {
        let done = self.stream.synchronize();
        done.during("waiting for the device")
    }

    /// Memory for `len` values, all zero.
    pub(super) fn zeros<T: DeviceRepr + ValidAsZeroBits>(&self, len: usize) -> Result<Buffer<T>> {
        let bytes = len * size_of::<T>();
        let slice = self.stream.alloc_zeros(len.max(1));
        Ok(self.buffer(slice.during(format_args!("{bytes} bytes of memory"))?))
    }

    /// A copy of values on the device.
    pub(super) fn upload<T: DeviceRepr>(&self, values: &[T]) -> Result<Buffer<T>> {
        let bytes = size_of_val(values);
        let slice = self.stream.clone_htod(values);
        Ok(self.buffer(slice.during(format_args!("{bytes} bytes of memory"))?))
    }

    /// Puts values into a buffer, at its start.
    pub(super) fn write<T: DeviceRepr>(&self, values: &[T], to: &mut Buffer<T>) -> Result<()> {
        let mut to = to.slice.slice_mut(..values.len());
        let copied = self.stream.memcpy_htod(values, &mut to);
        copied.during("a copy to the device")
    }

    /// The first `len` values of a buffer, when all that was asked is done.
    pub(super) fn read<T: DeviceRepr + Clone + Default>(
        &self,
        from: &Buffer<T>,
        len: usize,
    ) -> Result<Vec<T>> {
        self.read_ranges(from, std::slice::from_ref(&(0..len)))
    }

    /// The values of these ranges of a buffer, one after another, when all
    /// that was asked is done.
    pub(super) fn read_ranges<T: DeviceRepr + Clone + Default>(
        &self,
        from: &Buffer<T>,
        ranges: &[Range<usize>],
    ) -> Result<Vec<T>> {
        let mut values = vec![T::default(); ranges.iter().map(Range::len).sum()];
        if values.is_empty() {
            return Ok(values);
        }
        let mut rest = &mut values[..];
        for range in ranges.iter().filter(|range| !range.is_empty()) {
            let (to, others) = rest.split_at_mut(range.len());
            let copied = self
                .stream
                .memcpy_dtoh(&from.slice.slice(range.clone()), to);
            copied.during("a copy to the host")?;
            rest = others;
        }
        self.wait()?;
        Ok(values)
    }

    /// Memory of the host for `len` words, all zero, that the device reads and
    /// writes by itself.
    pub(super) fn pinned(&self, len: usize) -> Result<Pinned> {
        let context = self.stream.context();
        // SAFETY: it is filled before anyone reads it.
        let words = unsafe { context.alloc_pinned_with_flags(len.max(1), 0) };
        let what = "page-locked memory of the host";
        let mut words: PinnedHostSlice<u32> = words.during(what)?;
        words.as_mut_slice().during(what)?.fill(0);
        let used = context.new_event(None).during(what)?;
        Ok(Pinned { words, used })
    }

    /// Lets the device take words of the host's memory when it is done with
    /// what was asked before; `fill` writes them there first, when the device
    /// has taken those of the last time.
    pub(super) fn bring(
        &self,
        from: &mut Pinned,
        to: &mut Buffer<u32>,
        fill: impl FnOnce(&mut [u32]),
    ) -> Result<()> {
        let what = "a copy to the device";
        from.used.synchronize().during(what)?;
        fill(from.words.as_mut_slice().during(what)?);
        let brought = self.stream.memcpy_htod(&from.words, &mut to.slice);
        brought.during(what)?;
        from.used.record(&self.stream).during(what)
    }

    /// Lets the device copy the first `len` words of a buffer to the host's
    /// memory when it is done with what was asked before.
    pub(super) fn send(&self, from: &Buffer<u32>, len: usize, to: &mut Pinned) -> Result<()> {
        let from = from.slice.slice(..len);
        let what = "a copy to the host";
        let sent = self.stream.memcpy_dtoh(&from, &mut to.words);
        sent.during(what)?;
        to.used.record(&self.stream).during(what)
    }

    /// What was sent, when all that was asked is done.
    pub(super) fn sent<'a>(&self, to: &'a Pinned) -> Result<&'a [u32]> {
        // The stream: to wait for an event puts the thread to sleep, and it
        // would wake late.
        self.wait()?;
        to.words.as_slice().during("a copy to the host")
    }

    fn buffer<T>(&self, slice: CudaSlice<T>) -> Buffer<T> {
        let (pointer, _) = slice.device_ptr(&self.stream);
        Buffer { slice, pointer }
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({})", self.ordinal())
    }
}

/// Memory on a device, which goes back on Drop.
pub(super) struct Buffer<T> {
    slice: CudaSlice<T>,
    /// Where it is, as kernels take it.
    pub(super) pointer: u64,
}

/// Words of the host's memory that are locked in their place. With any other
/// memory a copy may keep the caller until it is done, and all that was asked
/// before; with these the host goes on at once.
pub(super) struct Pinned {
    words: PinnedHostSlice<u32>,
    /// The last copy from or to them. cudarc has one for each slice, which it
    /// doesn't record where events are not tracked.
    used: CudaEvent,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // The memory goes back now, unlike a device's, which does so in the
        // order of the stream. A device that fails no longer uses it.
        let _ = self.used.synchronize();
    }
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pinned({})", self.words.len())
    }
}

impl<T> Buffer<T> {
    pub(super) fn len(&self) -> usize {
        self.slice.len()
    }
}

impl<T> fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({})", self.len())
    }
}
