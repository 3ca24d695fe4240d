//! Backups into a repository and restores from it, beside the tools that people have, in one run, on one server.
//!
//!     cargo bench --bench backup
//!
//! As root: the server is PostgreSQL 17 of the tree that `tests/host/build` makes, and so are restic and pgBackRest.
//! Without either it says so and is done. The server has PostgreSQL's own defaults, durable ones, and `summarize_wal`.
//! Programs are timed as a whole. Before each, CHECKPOINT and sync leave nothing that was written by the one before.
//! Every measurement is repeated, in the opposite order each time, and the best one counts. The result is tables in
//! Markdown on standard output.
//!
//! `BENCH_POSITIONS` (4000000) and `BENCH_ROUNDS` (2) change the size, `BENCH_SIZES` (1000000,4000000,16000000) the sizes
//! at which a backup after a change is compared with itself. Everything lies in `TMPDIR`, which should be on a disk.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the result, and what is being measured")]
// What follows is about the tests' helpers, which fail by panicking, explain themselves by their names and are not all
// needed here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::must_use_candidate, clippy::missing_panics_doc, clippy::unnecessary_debug_formatting)]
#![allow(dead_code, unused_imports, unreachable_pub, missing_docs)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../../tests/integration/support/mod.rs"]
mod support;

mod backrest;
mod backups;
mod peers;
mod report;
mod restores;
mod scene;

use anyhow::{Context, Result};
use backrest::BackRest;
use backups::{Ours, Tool};
use common::{Measured, number};
use peers::{Directory, Restic};
use report::Size;
use scene::{Change, Scene};

fn main() -> Result<()> {
    // `cargo test --benches` runs this too, and is not to take minutes.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let positions = number("BENCH_POSITIONS", 4_000_000)?;
    let rounds = number("BENCH_ROUNDS", 2)?;
    let sizes = std::env::var("BENCH_SIZES").unwrap_or_else(|_| "1000000,4000000,16000000".to_owned());
    let sizes: Vec<u32> = sizes
        .split(',')
        .map(|size| size.trim().parse())
        .collect::<Result<_, _>>()
        .context("BENCH_SIZES: no numbers")?;
    let Some(scene) = Scene::set(sizes.iter().copied().chain([positions]).max().unwrap_or_default())? else {
        return Ok(());
    };
    compare(&scene, positions, rounds)?;
    println!("{}\n", report::sizes(&grow(&scene, &sizes, positions, rounds)?));
    Ok(())
}

/// Backups, backups again and restores, beside everybody.
fn compare(scene: &Scene, positions: u32, rounds: u32) -> Result<()> {
    scene.create(positions)?;
    println!("{}; {positions} positions, a database of {}; best of {rounds}.\n", scene.machine()?, scene.size());
    let mut tools: Vec<Box<dyn Tool>> = vec![
        Box::new(Ours::new()),
        Box::new(Restic::new()),
        Box::new(Directory),
        Box::new(BackRest::new(scene, "gz", "pgBackRest, defaults", "")?),
        Box::new(BackRest::new(scene, "zst", "pgBackRest, tuned", backrest::TUNED)?),
    ];
    println!("{}\n", report::first(&first(scene, &mut tools, rounds)?));
    tools.retain(|tool| tool.adds());
    let newest = again(scene, &mut tools, Change::Newest, rounds)?;
    let scattered = again(scene, &mut tools, Change::Scattered, rounds)?;
    println!("{}\n", report::again(&[(Change::Newest, &newest), (Change::Scattered, &scattered)]));
    println!("{}\n", report::NOTES);
    for tool in &tools {
        tool.is_done(scene, 1 + 2 * rounds)?;
    }
    let ours = tools.swap_remove(0).site().context("ours is the first")?;
    drop(tools);
    println!("{}\n", report::restores(&restores::measure(scene, &ours, rounds)?));
    scene.drop_databases();
    Ok(())
}

/// Backups into new repositories, those of the last round stay.
fn first(scene: &Scene, tools: &mut [Box<dyn Tool>], rounds: u32) -> Result<Vec<Measured>> {
    let mut measured = Measured::none_yet(tools.iter().map(|tool| tool.name()));
    for number in 0..rounds {
        common::round(number, &mut measured, |at| {
            tools[at].renew(scene)?;
            scene.settle();
            tools[at].back_up(scene)
        })?;
    }
    Ok(measured)
}

/// Backups after a change, of which every tool sees as much as every other.
fn again(scene: &Scene, tools: &mut [Box<dyn Tool>], change: Change, rounds: u32) -> Result<Vec<Measured>> {
    let mut measured = Measured::none_yet(tools.iter().map(|tool| tool.name()));
    for number in 0..rounds {
        eprintln!("changed: {} positions, {}", scene.change(change, number)?, change.words());
        common::round(number, &mut measured, |at| {
            tools[at].prepare(scene)?;
            scene.settle();
            tools[at].back_up(scene)
        })?;
    }
    Ok(measured)
}

/// What a backup after a change costs at these sizes; at one of them beside the peer.
fn grow(scene: &Scene, sizes: &[u32], peer_at: u32, rounds: u32) -> Result<Vec<Size>> {
    let mut rows = Vec::new();
    for &positions in sizes {
        scene.create(positions)?;
        let mut tools: Vec<Box<dyn Tool>> = vec![Box::new(Ours::new())];
        if positions == peer_at {
            tools.push(Box::new(Restic::new()));
        }
        let first = first(scene, &mut tools, 1)?;
        let again = again(scene, &mut tools, Change::Newest, rounds)?;
        for tool in &tools {
            tool.is_done(scene, 1 + rounds)?;
        }
        rows.push(Size { positions, database: scene.size(), first, again });
        scene.drop_databases();
    }
    Ok(rows)
}
