//! Memory for weights and for the KV cache.

use std::alloc::{Layout, alloc_zeroed};

/// Bytes from which on huge pages are worth asking for.
const LARGE: usize = 4 << 20;

/// Numbers that are zero where all their bits are.
pub trait Number: Copy {}

impl Number for u8 {}
impl Number for u32 {}
impl Number for f32 {}

/// `len` zeros, in huge pages where the system gives them: what is read from
/// end to end for each token is read up to half as fast again, as with small
/// pages the processor looks up an address for every 64 lines. The system gives
/// each page when it is first written. None if it hasn't got so much.
pub fn zeros<T: Number>(len: usize) -> Option<Vec<T>> {
    let layout = Layout::array::<T>(len).ok()?;
    if layout.size() == 0 {
        return Some(Vec::new());
    }
    // SAFETY: the layout is not empty. What comes is `len` numbers, all of them
    // zeros, from the allocator and in the layout that a `Vec` gives back.
    let mut buffer = unsafe {
        let start = alloc_zeroed(layout).cast::<T>();
        if start.is_null() {
            return None;
        }
        Vec::from_raw_parts(start, len, len)
    };
    ask_for_huge_pages(buffer.as_mut_ptr(), len);
    Some(buffer)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_had_is_no_panic() {
        assert_eq!(zeros::<u32>(3), Some(vec![0; 3]));
        assert_eq!(zeros::<u8>(0), Some(Vec::new()));
        assert_eq!(zeros::<u8>(LARGE + 7).map(|v| v.len()), Some(LARGE + 7));
        assert_eq!(zeros::<u32>(usize::MAX / 2), None);
        assert_eq!(zeros::<u8>(usize::MAX >> 2), None);
    }
}
