//! The `outlast` program: reads the command line and calls the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    outlast::cli::main()
}
