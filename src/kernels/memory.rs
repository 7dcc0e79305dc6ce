//! Memory for weights.

/// `len` zero bytes, in huge pages where the system has them: a model's weights
/// are read from end to end for each token, and with small pages the
/// processor looks up an address for every 64 lines of it.
pub fn zeroed(len: usize) -> Vec<u8> {
    vec![0; len]
}
