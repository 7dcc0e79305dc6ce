//! Memory for weights.

/// Bytes from which on huge pages are worth asking for.
const LARGE: usize = 4 << 20;

/// `len` times `value`, in huge pages where the system gives them: what is
/// read from end to end for each token is read up to half as fast again, as
/// with small pages the processor looks up an address for every 64 lines.
pub fn filled<T: Copy>(len: usize, value: T) -> Vec<T> {
    let mut buffer = Vec::with_capacity(len);
    ask_for_huge_pages(buffer.as_mut_ptr(), len);
    buffer.resize(len, value);
    buffer
}

/// As [`filled`] with zeros, of which the system gives each page only when it
/// is first written.
pub fn zeros<T: Copy + Default>(len: usize) -> Vec<T> {
    let mut buffer = vec![T::default(); len];
    ask_for_huge_pages(buffer.as_mut_ptr(), len);
    buffer
}

#[cfg(target_os = "linux")]
fn ask_for_huge_pages<T>(start: *mut T, len: usize) {
    const PAGE: usize = 4096;
    let (start, len) = (start.cast::<u8>(), len * size_of::<T>());
    let skip = start.align_offset(PAGE);
    if len >= LARGE && skip < len {
        // SAFETY: the pages lie within one allocation, and the advice changes
        // neither their content nor their access.
        let status = unsafe {
            let whole = (len - skip) / PAGE * PAGE;
            libc::madvise(start.add(skip).cast(), whole, libc::MADV_HUGEPAGE)
        };
        if status != 0 {
            tracing::debug!("no huge pages: {}", std::io::Error::last_os_error());
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn ask_for_huge_pages<T>(_start: *mut T, _len: usize) {}
