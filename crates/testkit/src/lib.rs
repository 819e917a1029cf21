//! What the tests of several rooms share: where real data lies, tiny models, the operation suite, fuzz bodies.

pub mod fuzz;
mod memory;
pub mod reference;
pub mod suite;

pub use memory::Memory;

use std::path::{Path, PathBuf};

/// The folder of real weights and vocabularies: `$ALLOD_TEST_DATA`, else `../shared/data` beside the project.
/// `None`, with a line on stderr, where there is none: the calling test then has nothing to compare with and returns.
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
pub fn data() -> Option<PathBuf> {
    let folder = match std::env::var_os("ALLOD_TEST_DATA") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"),
    };
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: no test data at {} (set ALLOD_TEST_DATA)", folder.display());
    None
}
