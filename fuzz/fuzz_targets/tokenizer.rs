#![no_main]

#[allow(dead_code)]
#[path = "../targets.rs"]
mod targets;

use std::sync::Once;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // The library's panics are caught and become errors, but libfuzzer's hook
    // ends the process before. It still sees those that nobody caught.
    static OWN_HOOK: Once = Once::new();
    OWN_HOOK.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    targets::tokenizer(data);
});
