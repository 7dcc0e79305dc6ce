//! The `gpt2` command: parse, run, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    gpt2_engine::cli::main()
}
