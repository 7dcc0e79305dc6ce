//! Memory for weights.

/// Bytes from which on huge pages are worth asking for.
const LARGE: usize = 4 << 20;

/// `len` zero bytes, in huge pages where the system gives them: a model's
/// weights are read from end to end for each token, and with small pages the
/// processor looks up an address for every 64 lines of it.
pub fn zeroed(len: usize) -> Vec<u8> {
    let mut buffer = Vec::new();
    if len >= LARGE {
        buffer = Vec::with_capacity(len);
        ask_for_huge_pages(buffer.as_mut_ptr(), len);
    }
    buffer.resize(len, 0);
    buffer
}

#[cfg(target_os = "linux")]
fn ask_for_huge_pages(start: *mut u8, len: usize) {
    const PAGE: usize = 4096;
    let skip = start.align_offset(PAGE);
    if skip < len {
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
fn ask_for_huge_pages(_start: *mut u8, _len: usize) {}
