//! `glovebox-man DIR`: writes the manual pages and the shells' completions of all programs, from the definitions of
//! their command lines, while they are packaged.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Command, CommandFactory, Parser};
use clap_complete::Shell;
use clap_mangen::Man;
use glovebox::cli::{backup, close, delete, migrate, restore};

/// Write the manual pages and the shells' completions of all programs
#[derive(Parser)]
#[command(name = "glovebox-man", version)]
struct Args {
    /// A directory; it is made if it is not there
    dir: PathBuf,
}

fn main() -> Result<()> {
    write(&glovebox::cli::parse::<Args>().dir)
}

/// `DIR/man/*.1` and `DIR/completions/{bash,zsh,fish}/*`, by the names that the shells look for.
fn write(dir: &Path) -> Result<()> {
    let commands = [
        backup::Args::command(),
        restore::Args::command(),
        migrate::Args::command(),
        close::DriveArgs::command(),
        close::ChargeArgs::command(),
        delete::DriveArgs::command(),
        delete::ChargeArgs::command(),
    ];
    let made = |sub: &str| -> Result<std::path::PathBuf> {
        let path = dir.join(sub);
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    };
    let pages = made("man")?;
    let shells = [
        (Shell::Bash, made("completions/bash")?),
        (Shell::Zsh, made("completions/zsh")?),
        (Shell::Fish, made("completions/fish")?),
    ];
    for mut command in commands {
        let name = command.get_name().to_owned();
        command.build();
        page(&command, &pages).with_context(|| format!("cannot write the pages of {name}"))?;
        for (shell, path) in &shells {
            clap_complete::generate_to(*shell, &mut command, &name, path)
                .with_context(|| format!("cannot write the completion of {name} for {shell}"))?;
        }
    }
    Ok(())
}

/// When the command lines were last changed.
const DATE: &str = "2026-11-21";

/// The page of a command, and of each of its subcommands: `teslamate-backup-forget.1`.
fn page(command: &Command, dir: &Path) -> Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let man = Man::new(command.clone()).title(&name).date(DATE);
    let mut bytes = Vec::new();
    man.render(&mut bytes)?;
    // Two line breaks around an empty line are what mandoc calls a mistake, and means a paragraph.
    let text = String::from_utf8(bytes)?.replace("\n.br\n\n.br\n", "\n.sp\n");
    std::fs::write(dir.join(format!("{name}.1")), text)?;
    command.get_subcommands().filter(|sub| sub.get_name() != "help").try_for_each(|sub| page(sub, dir))
}
