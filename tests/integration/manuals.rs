//! Manual pages and completions, as a package installs them.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::support::binary::PROGRAMS;
use super::support::probe::need;

fn written() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_glovebox-man")).arg(directory.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    directory
}

fn names(directory: &Path) -> Vec<String> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn every_program_has_a_manual_page_without_mistakes() {
    let directory = written();
    let pages = names(&directory.path().join("man"));
    for program in PROGRAMS {
        assert!(pages.contains(&format!("{program}.1")), "{program}: {pages:?}");
    }
    // A page for each subcommand, too.
    assert!(pages.contains(&"teslamate-backup-forget.1".to_owned()), "{pages:?}");
    for page in &pages {
        let mut mandoc = Command::new(need("mandoc", "mandoc"));
        let output =
            mandoc.args(["-T", "lint", "-W", "warning"]).arg(directory.path().join("man").join(page)).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn every_shell_completes_every_program() {
    let directory = written();
    for (shell, file) in [("bash", "NAME.bash"), ("zsh", "_NAME"), ("fish", "NAME.fish")] {
        let at = directory.path().join("completions").join(shell);
        for program in PROGRAMS {
            let path = at.join(file.replace("NAME", program));
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert!(text.contains("config"), "{}", path.display());
            if shell == "bash" {
                assert!(Command::new("bash").arg("-n").arg(&path).status().unwrap().success(), "{}", path.display());
            }
        }
    }
}
