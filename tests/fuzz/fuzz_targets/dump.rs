//! Any bytes, cut anywhere, are read without a panic, and what is found does not depend on the cuts.
#![no_main]

use glovebox::dump::contents::Reader;
use libfuzzer_sys::fuzz_target;

fn read(bytes: &[u8], piece: usize) -> Result<u64, String> {
    let mut reader = Reader::default();
    for piece in bytes.chunks(piece) {
        reader.feed(piece).map_err(|flaw| flaw.what)?;
    }
    reader.finish().map(|contents| contents.total_rows()).map_err(|flaw| flaw.what)
}

fuzz_target!(|data: (u8, Vec<u8>)| {
    let (cut, bytes) = data;
    let mut text = b"--\n-- PostgreSQL database dump\n--\n".to_vec();
    text.extend(bytes);
    let (whole, pieces) = (read(&text, text.len()), read(&text, usize::from(cut) + 1));
    // Two flaws in one text may be met in another order; that there is one does not change.
    assert_eq!(whole.as_ref().ok(), pieces.as_ref().ok());
});
