//! Any bytes between the begin and the end of a dump, cut anywhere, are read without a panic, and what is found does not
//! depend on the cuts.
//!
//! An input is the number of cuts, the cuts, and the text, so that a real dump makes a seed: `printf '\2\5\77'; cat a.sql`.
#![no_main]

use glovebox::dump::Contents;
use glovebox::dump::contents::Reader;
use libfuzzer_sys::fuzz_target;

const BEGIN: &[u8] = b"--\n-- PostgreSQL database dump\n--\n";
const END: &[u8] = b"\n--\n-- PostgreSQL database dump complete\n--\n\n";

/// Reads a text in pieces of these lengths, again and again.
fn read(mut text: &[u8], lengths: &[usize]) -> Result<Contents, String> {
    let mut reader = Reader::default();
    for length in lengths.iter().cycle() {
        if text.is_empty() {
            break;
        }
        let (piece, rest) = text.split_at((*length).clamp(1, text.len()));
        reader.feed(piece).map_err(|flaw| flaw.what)?;
        text = rest;
    }
    reader.finish().map_err(|flaw| flaw.what)
}

fuzz_target!(|bytes: &[u8]| {
    let Some((count, bytes)) = bytes.split_first() else { return };
    let (cuts, middle) = bytes.split_at(bytes.len().min(usize::from(*count)));
    let text = [BEGIN, middle, END].concat();
    let lengths: Vec<usize> = cuts.iter().map(|cut| usize::from(*cut)).chain([1]).collect();
    let (whole, pieces) = (read(&text, &[text.len()]), read(&text, &lengths));
    // Two flaws in one text may be met in another order; that there is one does not change.
    assert_eq!(format!("{:?}", whole.ok()), format!("{:?}", pieces.ok()));
});
