//! Numbers that kernels and launches share: they are defined in the kernels, and
//! read from there as this is compiled.

/// What the launches have to know is defined in.
pub(super) const COMMON: &str = include_str!("kernels/common.cuh");
pub(super) const LINEAR_TENSOR: &str = include_str!("kernels/linear/tensor.cuh");
pub(super) const LINEAR_FEW: &str = include_str!("kernels/linear/few.cuh");
pub(super) const LINEAR_MANY: &str = include_str!("kernels/linear/many.cuh");
pub(super) const LINEAR_PLAIN: &str = include_str!("kernels/linear/plain.cuh");
pub(super) const ATTENTION: &str = include_str!("kernels/attention.cuh");
pub(super) const SAMPLE_ROW: &str = include_str!("kernels/sample/row.cuh");
pub(super) const SAMPLE_PICK: &str = include_str!("kernels/sample/pick.cuh");

/// The number that `#define name` gives in a source.
///
/// # Panics
/// Where it isn't defined, or as something else; compiling ends then.
pub(super) const fn defined(source: &str, name: &str) -> usize {
    let (source, name) = (source.as_bytes(), name.as_bytes());
    let mut at = 0;
    while at < source.len() {
        let start = at + b"#define ".len();
        let mut end = start + name.len();
        if follows(source, at, b"#define ")
            && follows(source, start, name)
            && follows(source, end, b" ")
        {
            let mut number = 0;
            end += 1;
            let first = end;
            while end < source.len() && source[end].is_ascii_digit() {
                number = 10 * number + (source[end] - b'0') as usize;
                end += 1;
            }
            assert!(end > first && follows(source, end, b"\n"), "not a number");
            return number;
        }
        at += 1;
    }
    panic!("not defined")
}

/// Whether `what` is there from `at` on.
const fn follows(source: &[u8], at: usize, what: &[u8]) -> bool {
    let mut i = 0;
    while i < what.len() {
        if at + i >= source.len() || source[at + i] != what[i] {
            return false;
        }
        i += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_that_of_its_whole_name() {
        let source = "#define ROWS_MOST 7\n#define ROWS 16\n#define WIDTH (2 * ROWS)\n";
        assert_eq!(
            [defined(source, "ROWS"), defined(source, "ROWS_MOST")],
            [16, 7]
        );
        for wrong in ["MOST", "WIDTH"] {
            assert!(
                std::panic::catch_unwind(|| defined(source, wrong)).is_err(),
                "{wrong}"
            );
        }
    }
}
