//! Where settings come from, what is said about wrong ones, and where a secret must never be seen.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use glovebox::settings::keys::{Form, KEYS};
use glovebox::settings::{Inputs, Settings, inputs::Text};

use crate::connections;
use crate::support::binary::{Outcome, path_of};
use crate::support::server::is_root;
use crate::support::{Server, Site};

fn site() -> (&'static Server, Site) {
    let server = Server::shared();
    let site = Site::new(server, &server.teslamate("settings"));
    (server, site)
}

fn backup(site: &Site) -> crate::support::binary::Run {
    site.command("teslamate-backup").args(&["--json", "--force", "--schema-only", "a.sql"])
}

/// A secrets file of the installation that its owner alone can read.
fn secrets(site: &Site, content: impl AsRef<[u8]>) -> PathBuf {
    let path = site.path("secrets");
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

#[test]
fn command_line_environment_secrets_file_and_config_file_win_in_this_order() {
    let (server, site) = site();
    let path = secrets(&site, "DATABASE_NAME=by_secrets");
    let configure = |more: &str| site.configure(&format!("port = {}", server.port()), more);
    let looks_for = |outcome: Outcome, name: &str| {
        let message = outcome.expect(12).json()["error"]["message"].clone();
        assert_eq!(message, format!("there is no database \"{name}\""));
    };

    assert_eq!(backup(&site).outcome().expect(0).json()["database"], site.database, "the config file's");
    configure(&format!("secrets_file = {path:?}"));
    looks_for(backup(&site).outcome(), "by_secrets");
    looks_for(backup(&site).env("DATABASE_NAME", "by_environment").outcome(), "by_environment");
    looks_for(
        backup(&site).env("DATABASE_NAME", "by_environment").args(&["--dbname", "by_command_line"]).outcome(),
        "by_command_line",
    );
}

#[test]
fn without_a_config_file_the_rest_suffices() {
    let (server, site) = site();
    let mut command = Command::new(path_of("teslamate-backup"));
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("DATABASE_NAME", &site.database)
        .env("DATABASE_SOCKET_DIR", server.dir())
        .env("DATABASE_PORT", server.port().to_string())
        .env("GLOVEBOX_STATE_DIR", site.state_dir());
    if is_root() {
        command.env("GLOVEBOX_DATABASE_OS_USER", "root");
    }
    let output = command.arg("--schema-only").arg(site.path("a.sql")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_file_that_was_named_has_to_be_there() {
    let (_, site) = site();
    fs::remove_file(site.config()).unwrap();
    let words = format!("cannot read the configuration file {}", site.config().display());
    backup(&site).outcome().expect(2).says(&words).says("No such file");

    site.write_config(&format!("secrets_file = {:?}", site.path("missing")));
    backup(&site).outcome().expect(2).says("cannot read the secrets file").says("Name an existing file");
}

#[test]
fn every_mistake_is_reported_at_once_with_its_file_and_key() {
    let (_, site) = site();
    let path = secrets(&site, "DATABASE_SSL=maybe\n");
    site.write_config(&format!("secrets_file = {path:?}\n[databse]\nname = 'x'\n[database]\nport = 0\nnmae = 'x'"));
    let outcome = backup(&site).env("GLOVEBOX_STATEDIR", "/x").outcome().expect(2).says("the settings have 5 mistakes");
    let config = site.config().display().to_string();
    for line in [
        format!("{config}: unknown key `databse`; did you mean `database`?"),
        format!("{config}: unknown key `database.nmae`; did you mean `database.name`?"),
        format!("{config}: `database.port` must be a whole number from 1 to 65535"),
        format!("{}: `DATABASE_SSL` must be true, false or \\\"noverify\\\"", path.display()),
        "environment: unknown variable `GLOVEBOX_STATEDIR`; did you mean `GLOVEBOX_STATE_DIR`?".to_owned(),
    ] {
        assert!(outcome.stderr.contains(&line), "{line}\nnot in {}", outcome.stderr);
    }
    assert_eq!(outcome.json()["error"]["kind"], "usage");
    assert!(!site.path("a.sql").exists());
}

#[test]
fn r88_a_secrets_file_that_everyone_can_read_is_reported_and_used() {
    let (server, site) = site();
    let path = secrets(&site, format!("DATABASE_NAME={}\n", site.database));
    site.configure(&format!("port = {}", server.port()), &format!("secrets_file = {path:?}"));
    let quiet = backup(&site).outcome().expect(0);
    assert!(!quiet.stderr.contains("can be read"), "{}", quiet.stderr);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let words = format!("the secrets file {} can be read by every account", path.display());
    backup(&site).outcome().expect(0).says(&words).says("chmod 0600");
}

#[test]
fn r85_a_secrets_file_that_systemd_refuses_is_refused_and_one_that_it_partly_ignores_is_reported() {
    let (server, site) = site();
    let path = secrets(&site, b"A=1\nDATABASE_PASS='\xff'\n");
    site.configure(&format!("port = {}", server.port()), &format!("secrets_file = {path:?}"));
    backup(&site).outcome().expect(2).says(&format!("{}:2: not valid UTF-8 text", path.display()));
    secrets(&site, format!("export A=1\nDATABASE_NAME={}\n", site.database));
    backup(&site).outcome().expect(0).says(&format!("{}:1: `export` belongs to shells", path.display()));
}

/// Looks at every process of the machine, over and over, for words that must not be there.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
    /// Programs whose arguments hold one of the words.
    in_arguments: Arc<Mutex<BTreeSet<String>>>,
    /// Programs whose environment holds one, with the word.
    in_environment: Arc<Mutex<BTreeSet<(String, String)>>>,
}

impl Watch {
    fn start(words: &[&str]) -> Self {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let watch =
            Self { stop: Arc::default(), thread: None, in_arguments: Arc::default(), in_environment: Arc::default() };
        let (stop, arguments, environment) =
            (watch.stop.clone(), watch.in_arguments.clone(), watch.in_environment.clone());
        let thread = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                for process in fs::read_dir("/proc").unwrap().flatten() {
                    let read = |name: &str| {
                        String::from_utf8_lossy(&fs::read(process.path().join(name)).unwrap_or_default()).into_owned()
                    };
                    let (line, variables) = (read("cmdline"), read("environ"));
                    for word in &words {
                        if line.contains(word) {
                            arguments.lock().unwrap().insert(read("comm"));
                        }
                        if variables.contains(word) {
                            environment.lock().unwrap().insert((read("comm").trim().to_owned(), word.clone()));
                        }
                    }
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Self { thread: Some(thread), ..watch }
    }

    fn end(mut self) -> (BTreeSet<String>, BTreeSet<(String, String)>) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        (self.in_arguments.lock().unwrap().clone(), self.in_environment.lock().unwrap().clone())
    }
}

#[test]
fn the_watch_sees_arguments_and_environments() {
    let (argument, variable) = (format!("W4tch-a-{}", std::process::id()), format!("W4tch-v-{}", std::process::id()));
    let watch = Watch::start(&[&argument, &variable]);
    let script = ["-c", "sleep 0.5; true", &argument];
    assert!(Command::new("/bin/sh").args(script).env("WATCHED", &variable).status().unwrap().success());
    let (in_arguments, in_environment) = watch.end();
    assert!(in_arguments.iter().any(|name| name.trim() == "sh"), "{in_arguments:?}");
    assert!(in_environment.contains(&("sh".to_owned(), variable)), "{in_environment:?}");
}

/// Fails if one of the words is in a file below this directory; the files that were given the words are left out.
fn assert_no_file_holds(dir: &Path, words: &[&str], given: &[PathBuf]) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            assert_no_file_holds(&path, words, given);
        } else if !given.contains(&path) {
            let content = fs::read(&path).unwrap();
            for word in words {
                let found = content.windows(word.len()).any(|window| window == word.as_bytes());
                assert!(!found, "{} holds a secret", path.display());
            }
        }
    }
}

#[test]
fn r87_a_secret_is_seen_nowhere_but_in_the_environment_of_the_child_that_needs_it() {
    let server = connections::server();
    let canary = |name: &str| format!("S3cr3t-{name}-{}", std::process::id());
    let (password, key, cookie) = (canary("password"), canary("key"), canary("cookie"));
    let words = [password.as_str(), &key, &cookie];
    let create = format!("CREATE ROLE canary LOGIN SUPERUSER PASSWORD '{password}'");
    server.query("postgres", &create);

    // As root the work is done by a second process, which the settings have to reach too.
    let account = if is_root() { "os_user = \"nobody\"" } else { "" };
    let site = Site::new(server, &server.teslamate("canary"));
    if let (true, Some(user)) = (is_root(), nix::unistd::User::from_name("nobody").unwrap()) {
        nix::unistd::chown(&site.state_dir(), Some(user.uid), Some(user.gid)).unwrap();
    }
    let path = secrets(
        &site,
        format!("DATABASE_PASS={password}\nENCRYPTION_KEY={key}\nRELEASE_COOKIE={cookie}\nexport {password}\n"),
    );
    let configure = |more: &str, end: &str| {
        site.write_config(&format!(
            "state_dir = {:?}\nsecrets_file = {path:?}\n[database]\nname = {:?}\nuser = \"canary\"\nhost = \"localhost\"\n\
             port = {}\n{account}\n{more}\n{end}",
            site.state_dir(),
            site.database,
            server.port()
        ));
    };
    let watch = Watch::start(&words);
    let no_variables: &[(&str, &str)] = &[];
    let mut runs = Vec::new();
    let mut run = |binary: &str, arguments: &[&str], variables: &[(&str, &str)], code: i32| {
        let modes = [&["-v"][..], &["-v", "-v", "--json"]];
        // What fails is told in one place for both readers: each failure is tried with one of them, in turn.
        let modes = if code == 0 { modes.to_vec() } else { vec![modes[runs.len() % 2]] };
        for more in modes {
            let run = site.command(binary).args(more).args(arguments);
            let outcome = variables.iter().fold(run, |run, (name, value)| run.env(name, value)).outcome();
            runs.push((format!("{binary} {arguments:?} {variables:?}"), code, outcome));
        }
    };

    configure("", "");
    run("teslamate-backup", &["--force", "a.sql.zst"], no_variables, 0);
    run("teslamate-backup", &["--force", "a.dump"], no_variables, 0);
    run("teslamate-restore", &["--drill", "a.dump"], no_variables, 0);
    run("teslamate-restore", &["--drill", "a.sql.zst"], no_variables, 0);
    run("teslamate-restore", &["--yes", "a.dump"], no_variables, 0);

    run("teslamate-backup", &["a.dump"], no_variables, 10);
    run("teslamate-backup", &["--force", "--table", "nothing", "b.sql"], no_variables, 12);
    run("teslamate-backup", &["b.sql"], &[("DATABASE_NAME", "nowhere")], 12);
    run("teslamate-backup", &["b.sql"], &[("DATABASE_USER", "by_scram")], 12);
    run("teslamate-backup", &["b.sql"], &[("DATABASE_USER", "ghost")], 12);
    run("teslamate-backup", &["b.sql"], &[("DATABASE_PORT", "1")], 12);
    run("teslamate-backup", &["b.sql"], &[("DATABASE_HOST", "127.0.0.1"), ("DATABASE_SSL", "true")], 12);
    run("teslamate-backup", &["b.sql"], &[("GLOVEBOX_DATABASE_TOOLS", "/nonexistent")], 10);
    run("teslamate-restore", &["--drill", "missing"], no_variables, 10);
    run("teslamate-restore", &["--undo", "--yes"], &[("DATABASE_NAME", "nowhere")], 10);
    fs::write(site.path("not-a-dump"), "hello\n").unwrap();
    run("teslamate-restore", &["--drill", "not-a-dump"], no_variables, 10);

    // Secrets in the wrong place.
    for (more, end) in [
        (format!("password = {password:?}"), String::new()),
        (format!("password = {password}"), String::new()),
        (format!("ssl = {password:?}"), String::new()),
        (String::new(), format!("[repository]\noptions = [{password:?}]")),
        (String::new(), format!("[service]\nstop = {password:?}")),
        (format!("socket_dir = {password:?}"), String::new()),
    ] {
        configure(&more, &end);
        run("teslamate-backup", &["b.sql"], no_variables, 2);
    }
    let (in_arguments, in_environment) = watch.end();

    for (what, code, outcome) in runs {
        for word in words {
            assert!(!outcome.stderr.contains(word) && !outcome.text().contains(word), "{what} prints a secret");
        }
        assert_eq!(outcome.code, Some(code), "{what}\n{}\n{}", outcome.text(), outcome.stderr);
    }
    assert_eq!(in_arguments, BTreeSet::new());
    let (holders, seen): (BTreeSet<_>, BTreeSet<_>) = in_environment.into_iter().unzip();
    assert_eq!(seen, BTreeSet::from([password.clone()]), "no child needs the others");
    assert!(holders.contains("pg_dump"), "nothing was watched: {holders:?}");
    // A process that was gone before its name was read has none.
    let others: Vec<_> = holders.iter().filter(|name| !name.is_empty() && *name != "pg_dump").collect();
    assert!(others.is_empty(), "{others:?} hold the password");
    assert_no_file_holds(site.config().parent().unwrap(), &words, &[site.config(), path]);
}

const PAGE: &str = include_str!("../../docs/settings.md");

/// The table of all settings: `(key, variable, default)`.
fn documented() -> Vec<(String, String, String)> {
    let cell = |text: &str| text.trim().trim_matches('`').to_owned();
    PAGE.lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.split('|').map(cell).collect::<Vec<_>>())
        .filter(|cells| KEYS.iter().any(|key| key.env == cells[2]) || cells[2].starts_with("GLOVEBOX_"))
        .map(|cells| (cells[1].clone(), cells[2].clone(), cells[3].clone()))
        .collect()
}

#[test]
fn the_page_lists_every_setting_and_no_other() {
    let documented = documented();
    let listed: Vec<(&str, &str)> = documented.iter().map(|(path, env, _)| (path.as_str(), env.as_str())).collect();
    let known: Vec<(&str, &str)> = KEYS.iter().map(|key| (key.path, key.env)).collect();
    assert_eq!(listed, known, "docs/settings.md lists the settings in the order of src/settings/keys.rs");
}

#[test]
fn the_defaults_of_the_page_are_the_programs() {
    let settings = Settings::resolve(&Inputs::default()).unwrap();
    let (retention, backup) = (&settings.retention, &settings.backup);
    let numbers = BTreeMap::from([
        ("database.port", u32::from(settings.database.port)),
        ("retention.keep_last", retention.keep_last),
        ("retention.keep_hourly", retention.keep_hourly),
        ("retention.keep_daily", retention.keep_daily),
        ("retention.keep_weekly", retention.keep_weekly),
        ("retention.keep_monthly", retention.keep_monthly),
        ("retention.keep_yearly", retention.keep_yearly),
        ("retention.keep_safety_days", retention.keep_safety_days),
        ("backup.jobs", backup.jobs),
        ("backup.chunk_blocks", backup.chunk_blocks),
        ("backup.compression", backup.compression),
        ("migrations.wait", settings.migrations.wait),
        ("restore.keep_previous", settings.keep_previous),
    ]);
    assert_eq!(numbers.len(), KEYS.iter().filter(|key| key.form == Form::Number).count(), "a number is missing here");
    let documented: BTreeMap<String, String> =
        documented().into_iter().map(|(path, _, default)| (path, default)).collect();
    for (path, number) in numbers {
        assert_eq!(documented[path], number.to_string(), "{path}");
    }
    for (path, default) in [
        ("database.name", settings.database.name),
        ("database.user", settings.database.user),
        ("service.unit", settings.service.unit),
        ("state_dir", settings.state_dir.display().to_string()),
        ("database.socket_dir", "/run/postgresql".into()),
    ] {
        assert!(documented[path].contains(&default), "{path}: {}", documented[path]);
    }
}

#[test]
fn the_samples_of_the_page_are_understood() {
    let sample = |fence: &str| {
        let (_, rest) = PAGE.split_once(fence).expect("a sample");
        rest.split_once("```").unwrap().0.to_owned()
    };
    let text = |text: String| Some(Text { path: "sample".into(), bytes: text.into_bytes(), public: false });
    let inputs = Inputs { config: text(sample("```toml\n")), secrets: text(sample("```sh\n")), ..Inputs::default() };
    let settings = Settings::resolve(&inputs).unwrap();
    assert!(settings.warnings.is_empty(), "{:?}", settings.warnings);
    assert!(settings.repository.is_some() && settings.copies.len() == 1 && settings.service.executable.is_some());
    let secrets = [settings.database.password, settings.encryption_key, settings.release_cookie];
    assert!(secrets.iter().all(Option::is_some));
}

#[test]
fn a_configuration_is_checked_where_none_of_its_files_exists() {
    let (_, site) = site();
    site.write_config(
        "secrets_file = \"/nowhere/secrets\"\nbackup.extra_files = [\"/nowhere/else\"]\n\
         [repository]\nlocation = \"/nowhere/repository\"\npassword_file = \"/nowhere/password\"\n",
    );
    let check = || site.command("teslamate-backup").env("DATABASE_PORT", "none").arg("check-config").outcome();
    assert!(check().expect(0).text().contains("config.toml is sound"));
    site.write_config("[retention]\nkeep_dayly = 3\nkeep_weekly = \"often\"\n");
    check().expect(2).says("did you mean `retention.keep_daily`").says("retention.keep_weekly");
    assert_eq!(site.files("state"), Vec::<String>::new());
}

#[cfg(feature = "network")]
#[test]
fn a_checked_configuration_has_locations_and_options_that_will_be_understood() {
    let (_, site) = site();
    let check = || site.command("teslamate-backup").arg("check-config").outcome();
    let password = "password_file = \"/nowhere/password\"";
    // None of these files and programs is there, nobody is asked, and there are no credentials.
    site.write_config(&format!(
        "[repository]\nlocation = \"s3:https://s3.example.org/papers/x\"\n{password}\n\
         environment_file = \"/nowhere/s3.env\"\noptions = {{ region = \"x\", cacert = \"/nowhere/ca.pem\" }}\n\
         [[copies]]\nlocation = \"sftp:user@nas.example.org:/x\"\n{password}\n\
         options = {{ identity_file = \"/nowhere/key\", port = \"2222\" }}\n\
         [[copies]]\nlocation = \"rclone:box:x\"\n{password}\noptions = {{ program = \"/nowhere/rclone\" }}\n\
         [[copies]]\nlocation = \"rest:https://backup.example.org/\"\n{password}\n\
         [[copies]]\nlocation = \"/nowhere/else\"\n{password}\n",
    ));
    check().expect(0);

    site.write_config(&format!(
        "[retention]\nkeep_weekly = \"often\"\n[repository]\nlocation = \"s3:nonsense\"\n{password}\n\
         options = {{ regoin = \"c4nary\", timeout = \"c4nary\" }}\n\
         [[copies]]\nlocation = \"/nowhere/else\"\n[[copies]]\nlocation = \"nonsense\"\n{password}\n\
         [[copies]]\nlocation = \"/nowhere/more\"\n{password}\noptions = {{ region = \"c4nary\" }}\n",
    ));
    let refused = check().expect(2).says("the settings have 7 mistakes");
    let config = site.config().display().to_string();
    for line in [
        "`retention.keep_weekly` must be a whole number",
        "`repository.location`: `s3:` must be followed by a host and a bucket. Write it like this: s3:https://",
        "`repository.options`: `regoin` is no option of s3: repositories. Did you mean `region`?",
        "`repository.options`: the option `timeout` must be a time",
        "`copies[0]` must have `location` and `password_file`",
        "`copies[1].location`: `nonsense` is no location of a repository. Give an absolute directory",
        "`copies[2].options`: `region` is no option of a repository in a directory",
    ] {
        assert!(refused.stderr.contains(&format!("{config}: {line}")), "{line}\nnot in {}", refused.stderr);
    }
    assert!(!refused.stderr.contains("c4nary"), "{}", refused.stderr);
    assert_eq!(site.files("state"), Vec::<String>::new());
}
