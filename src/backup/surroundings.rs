//! Looks around: the application's release, its unit, the NixOS generation. What cannot be seen is left out.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::bounded;
use crate::process;
use crate::settings::Settings;
use crate::tables::surroundings::{Nixos, Surroundings, Unit};

/// How long systemd is waited for: a backup does without its answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Longer definitions are not a unit's.
const DEFINITION_LIMIT: u64 = 256 * 1024;

/// The longest file with the versions of a release.
const LONGEST_VERSIONS: u64 = 4096;

/// Everything that can be seen from here.
pub async fn look(settings: &Settings) -> Surroundings {
    Surroundings {
        release: settings.service.executable.as_deref().and_then(release),
        unit: unit(&settings.service.unit).await,
        nixos: nixos(Path::new("/nix/var/nix/profiles/system"), Path::new("/run/current-system")),
    }
}

/// The release that an executable belongs to: `releases/start_erl.data` beside its `bin` holds the runtime's version and
/// the release's. Source: Elixir documentation, "mix release", structure of a release.
#[must_use]
pub fn release(executable: &Path) -> Option<String> {
    let executable = executable.canonicalize().ok()?;
    let root = executable.parent()?.parent()?;
    let text = bounded::file(&root.join("releases/start_erl.data"), LONGEST_VERSIONS).ok()?;
    String::from_utf8_lossy(&text).split_whitespace().nth(1).map(str::to_owned)
}

async fn unit(name: &str) -> Option<Unit> {
    let systemctl = process::find_program("systemctl")?;
    let mut command = process::command(&systemctl);
    command.args(["cat", "--no-pager", "--", name]).stdout(Stdio::piped()).stderr(Stdio::null());
    let asking = tokio::time::timeout(ANSWER_LIMIT, bounded::output(command.spawn().ok()?, DEFINITION_LIMIT));
    let output = asking.await.ok()?.ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(Unit { name: name.to_owned(), definition: without_secrets(&text) })
}

/// A unit's text without the values of its environment and its credentials, and without what looks like a URL with a
/// password: nobody can tell which of them is a secret.
fn without_secrets(text: &str) -> String {
    let hides = |line: &str| {
        let line = line.trim_start();
        let assigns = ["Environment=", "SetCredential=", "SetCredentialEncrypted="];
        assigns.iter().any(|name| line.starts_with(name))
            || line.split_once("://").is_some_and(|(_, rest)| rest.contains('@'))
    };
    let mut lines: Vec<String> = Vec::new();
    let mut hiding = false;
    for line in text.lines() {
        if !hiding && hides(line) {
            let (name, _) = line.split_once('=').unwrap_or((line, ""));
            lines.push(format!("{name}=***"));
            hiding = true;
        } else if !hiding {
            lines.push(line.to_owned());
        }
        // A line that goes on carries its value on.
        hiding = hiding && line.ends_with('\\');
    }
    lines.join("\n")
}

fn nixos(profile: &Path, current: &Path) -> Option<Nixos> {
    let link = std::fs::read_link(profile).ok()?;
    let generation = link.file_name()?.to_str()?.strip_prefix("system-")?.strip_suffix("-link")?.parse().ok()?;
    Some(Nixos { generation, system: std::fs::read_link(current).ok()?.display().to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generation_and_the_release_are_read_from_their_links() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::os::unix::fs::symlink("system-123-link", at("system")).unwrap();
        std::os::unix::fs::symlink("/nix/store/x-nixos-system", at("current")).unwrap();
        let found = nixos(&at("system"), &at("current")).unwrap();
        assert_eq!((found.generation, found.system.as_str()), (123, "/nix/store/x-nixos-system"));
        assert_eq!(nixos(&at("absent"), &at("current")), None);
        for directory in ["release/bin", "release/releases"] {
            std::fs::create_dir_all(at(directory)).unwrap();
        }
        std::fs::write(at("release/bin/teslamate"), "").unwrap();
        assert_eq!(release(&at("release/bin/teslamate")), None);
        std::fs::write(at("release/releases/start_erl.data"), "14.2.5 2.2.0").unwrap();
        assert_eq!(release(&at("release/bin/teslamate")).as_deref(), Some("2.2.0"));
    }

    #[test]
    fn r87_a_unit_is_kept_without_the_secrets_in_it() {
        let text = "[Service]\nEnvironment=A=1 DATABASE_PASS=c4nary \\\n  more-c4nary\nExecStart=/bin/x\n\
                    Environment=\"MQTT_PASSWORD=c4nary\"\nSetCredential=x:c4nary\n\
                    ExecStop=/bin/y ecto://u:c4nary@host\nEnvironmentFile=/run/secrets";
        let kept = without_secrets(text);
        assert!(!kept.contains("c4nary"), "{kept}");
        assert!(kept.contains("ExecStart=/bin/x") && kept.contains("EnvironmentFile=/run/secrets"), "{kept}");
    }
}
