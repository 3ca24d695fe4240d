//! Tables in Markdown, and what their cells say.

use super::{Measured, Sample};

/// A table; the first column holds words, the others numbers.
pub fn markdown(header: &[String], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |", cells.join(" | "));
    let mut lines = vec![line(header), format!("|---{}|", "|---:".repeat(header.len() - 1))];
    lines.extend(rows.iter().map(|cells| line(cells)));
    lines.join("\n")
}

/// A program's name; a pipe in it does not end the cell.
pub fn code(name: &str) -> String {
    format!("`{}`", name.replace('|', "\\|"))
}

pub fn seconds(sample: &Sample) -> String {
    format!("{:.2}", sample.seconds)
}

/// Its best time, as a part of that of the peer of this name.
pub fn ratio(entry: &Measured, measured: &[Measured], peer: &str) -> String {
    let peer = measured.iter().find(|other| other.name == peer).map_or(f64::NAN, |peer| peer.best().seconds);
    format!("{:.2}", entry.best().seconds / peer)
}

pub fn megabytes(bytes: Option<u64>) -> String {
    bytes.map_or_else(String::new, |bytes| {
        if bytes < 10_000_000 {
            format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10)
        } else {
            format!("{} MB", bytes / 1_000_000)
        }
    })
}

/// The worst of all rounds.
pub fn memory(entry: &Measured) -> String {
    let peak = entry.samples.iter().filter_map(|sample| sample.peak).max();
    peak.map_or_else(String::new, |kilobytes| format!("{} MB", kilobytes / 1024))
}

/// Restores, with their ratios to these peers; and in a last column, if there is something to say, what ours aim at.
pub fn restores(measured: &[Measured], peers: &[&str], aim: impl Fn(&str) -> Option<&'static str>) -> String {
    let has_aims = measured.iter().any(|entry| aim(&entry.name).is_some());
    let mut header = vec!["restore".to_owned(), "seconds".to_owned()];
    header.extend(peers.iter().map(|peer| format!("of {}", code(peer))));
    header.extend(["ANALYZE", "downtime", "peak memory"].map(str::to_owned));
    header.extend(has_aims.then(|| "aim".to_owned()));
    let rows: Vec<Vec<String>> = measured
        .iter()
        .map(|entry| {
            let best = entry.best();
            let mut cells = vec![code(&entry.name), seconds(best)];
            cells.extend(peers.iter().map(|peer| ratio(entry, measured, peer)));
            cells.push(best.rest.map_or_else(|| "included".into(), |seconds| format!("+ {seconds:.2} s")));
            let worst = entry.samples.iter().filter_map(|sample| sample.downtime).reduce(f64::max);
            cells.push(worst.map_or_else(|| "all of it".into(), |seconds| format!("{seconds:.2} s")));
            cells.push(memory(entry));
            cells.extend(has_aims.then(|| aim(&entry.name).unwrap_or_default().to_owned()));
            cells
        })
        .collect();
    markdown(&header, &rows)
}
