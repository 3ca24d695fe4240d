//! Closing through the running application. Only its executable is a stand-in: a script that writes down how it was
//! called, and does with the rows what the real one would do, or fails to.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::support::{Outcome, Server, Site};

/// As nasty as an environment file allows: quotes, spaces, `$`, `%`, `#`, a backslash, backquotes.
const COOKIE: &str = r#"S3cr3t-5f1c $HOME `id` "x" \ % # ="#;

struct Rpc {
    server: &'static Server,
    site: Site,
}

/// A site with an executable that runs this SQL and then these lines of shell; `$id` is the record's id.
fn rpc(hint: &str, sql: &str, shell: &str) -> Rpc {
    let server = Server::shared();
    let database = server.teslamate(hint);
    let site = Site::new(server, &database);
    let log = site.path("called");
    fs::create_dir(&log).unwrap();
    let script = format!(
        r#"#!/bin/sh
cd '{log}' || exit 1
printf '%s\n' "$#" "$@" > argv
env > environment
tr '\0' '\n' < /proc/$PPID/cmdline > parent-argv
tr '\0' '\n' < /proc/$PPID/environ > parent-environment
pwd -P > /dev/null
id=$(printf '%s' "$2" | sed -n 's/.*, \([0-9]*\)) |>.*/\1/p')
psql -X -q -v ON_ERROR_STOP=1 -v id="$id" -h '{host}' -p {port} -U teslamate -d '{database}' <<'SQL' || exit 9
{sql}
SQL
{shell}
"#,
        log = log.display(),
        host = server.dir().display(),
        port = server.port(),
    );
    let executable = site.path("teslamate");
    fs::write(&executable, script).unwrap();
    fs::set_permissions(&executable, fs::Permissions::from_mode(0o755)).unwrap();
    let escaped = COOKIE.replace('\\', r"\\").replace('"', r#"\""#).replace('$', r"\$").replace('`', r"\`");
    fs::write(site.path("secrets"), format!("RELEASE_COOKIE=\"{escaped}\"\n")).unwrap();
    fs::set_permissions(site.path("secrets"), fs::Permissions::from_mode(0o600)).unwrap();
    let [secrets, executable] = [site.path("secrets"), executable].map(|path| format!("\"{}\"", path.display()));
    let more = format!("secrets_file = {secrets}\nservice.executable = {executable}");
    site.configure(&format!("port = {}", server.port()), &more);
    Rpc { server, site }
}

impl Rpc {
    fn open_drive(&self) -> String {
        self.server.query(&self.site.database, "SELECT id FROM drives WHERE end_date IS NULL")
    }

    fn called(&self, file: &str) -> String {
        fs::read_to_string(self.site.path("called").join(file)).unwrap()
    }

    /// Nothing that is left behind, and nothing that was said, holds the cookie.
    fn assert_no_secret(&self, outcome: &Outcome) {
        let needle = "S3cr3t-5f1c";
        assert!(!outcome.stderr.contains(needle) && !outcome.text().contains(needle), "{outcome:?}");
        for file in ["argv", "parent-argv", "parent-environment"] {
            assert!(!self.called(file).contains(needle), "in {file}");
        }
        let found =
            std::process::Command::new("grep").args(["-rl", needle]).arg(self.site.state_dir()).output().unwrap();
        assert!(found.stdout.is_empty(), "{}", String::from_utf8_lossy(&found.stdout));
    }
}

const CLOSE: &str = "UPDATE drives SET end_date = '2024-02-03 04:05:06', distance = 12.5 WHERE id = :id;";

#[test]
fn r85_r87_the_application_is_asked_and_its_cookie_stays_secret() {
    let rpc = rpc("rpc", CLOSE, "echo \"cookie is $RELEASE_COOKIE\"");
    let id = rpc.open_drive();
    let outcome = rpc.site.run("teslamate-close-drive", &["--json", "-v", &id]).expect(0);
    let json = outcome.json();
    assert_eq!((json["via"].as_str(), json["why"].as_str()), (Some("rpc"), Some("teslamate.service is running")));
    assert_eq!(json["results"][0]["status"], "closed");
    assert_eq!(json["results"][0]["changes"]["distance"], serde_json::json!([null, 12.5]));
    let expression =
        format!("{{:ok, _}} = TeslaMate.Repo.get!(TeslaMate.Log.Drive, {id}) |> TeslaMate.Log.close_drive()");
    assert_eq!(rpc.called("argv"), format!("2\nrpc\n{expression}\n"));
    let environment = rpc.called("environment");
    assert!(environment.contains(&format!("RELEASE_COOKIE={COOKIE}\n")), "{environment}");
    for name in ["HOME=/", "LC_ALL=C.UTF-8", "PATH=", "ERL_CRASH_DUMP=/dev/null"] {
        assert!(environment.lines().any(|line| line.starts_with(name)), "{name}: {environment}");
    }
    for name in ["DATABASE_PASS", "TZ=", "GLOVEBOX"] {
        assert!(!environment.lines().any(|line| line.starts_with(name)), "{name}: {environment}");
    }
    rpc.assert_no_secret(&outcome);
}

#[test]
fn a_charge_is_asked_for_by_its_own_name() {
    let sql = "UPDATE charging_processes SET end_date = now(), cost = 3 WHERE id = :id; UPDATE cars SET efficiency = 0.2 WHERE id = 2;";
    let rpc = rpc("rpc_charge", sql, "");
    let id = rpc.server.query(&rpc.site.database, "SELECT id FROM charging_processes WHERE end_date IS NULL");
    let outcome = rpc.site.run("teslamate-close-charge", &[&id]).expect(0);
    assert!(outcome.text().contains("cars.efficiency") && outcome.text().contains("cost"), "{}", outcome.text());
    let expression = format!(
        "{{:ok, _}} = TeslaMate.Repo.get!(TeslaMate.Log.ChargingProcess, {id}) |> TeslaMate.Log.complete_charging_process()"
    );
    assert_eq!(rpc.called("argv"), format!("2\nrpc\n{expression}\n"));
}

#[test]
fn what_goes_wrong_is_a_failure_in_the_words_of_the_application() {
    let half = "UPDATE drives SET distance = 12.5 WHERE id = :id;";
    let leak = "echo \"** (RuntimeError) cookie $RELEASE_COOKIE is wrong\" >&2";
    let cases: &[(&str, &str, &str, i32, &[&str])] = &[
        (
            "exit code",
            "",
            "echo 'rpc failed with reason :nodedown' >&2; exit 1",
            10,
            &["exit code 1", ":nodedown", "nothing was changed", "--via sql"],
        ),
        (
            "exception with exit code 0",
            "",
            "echo '** (Ecto.NoResultsError) none' >&2",
            10,
            &["reported an error", "NoResultsError"],
        ),
        ("a leak in its words", "", leak, 10, &["cookie *** is wrong"]),
        ("signal", "", "kill -9 $$", 10, &["killed by signal 9"]),
        ("silence, and an open row", "", "", 10, &["said nothing", "still open", "nothing was changed"]),
        ("silence, and half a row", half, "", 15, &["still open", "its row was changed"]),
        ("half a row and a failure", half, "exit 1", 15, &["was changed all the same", "--via sql"]),
        ("done and a failure", CLOSE, "exit 3", 15, &["exit code 3", "was changed all the same"]),
    ];
    for (name, sql, shell, code, words) in cases {
        let rpc = rpc("rpc_fails", sql, shell);
        let id = rpc.open_drive();
        let before = rpc.server.content(&rpc.site.database);
        let outcome = rpc.site.run("teslamate-close-drive", &[&id]);
        assert_eq!(outcome.code, Some(*code), "{name}: {outcome:?}");
        for word in *words {
            assert!(outcome.stderr.contains(word), "{name}: not said: {word}\n{}", outcome.stderr);
        }
        rpc.assert_no_secret(&outcome);
        if sql.is_empty() {
            assert_eq!(rpc.server.content(&rpc.site.database), before, "{name}");
            // What it advises works.
            rpc.site.run("teslamate-close-drive", &["--via", "sql", &id]).expect(0);
        }
    }
}

#[test]
fn k13_the_cookie_is_only_doubted_where_no_node_answered() {
    for (shell, is_doubted) in [
        ("echo '--rpc-eval : RPC failed with reason :nodedown' >&2; exit 1", true),
        ("echo '** (Ecto.NoResultsError) none' >&2; exit 1", false),
    ] {
        let rpc = rpc("rpc_cookie", "", shell);
        let outcome = rpc.site.run("teslamate-close-drive", &[&rpc.open_drive()]).expect(10);
        assert_eq!(outcome.stderr.contains("Is RELEASE_COOKIE"), is_doubted, "{}", outcome.stderr);
    }
}

#[test]
fn k13_words_of_a_call_that_succeeded_are_passed_on() {
    let rpc = rpc("rpc_words", CLOSE, "echo 'Address not found'");
    let outcome = rpc.site.run("teslamate-close-drive", &[&rpc.open_drive()]).expect(0);
    assert!(outcome.text().contains("note: TeslaMate said: Address not found"), "{}", outcome.text());
}

#[test]
fn k13_tables_of_before_2_1_are_called_older() {
    let rpc = rpc("rpc_older", "", "");
    rpc.server.query(&rpc.site.database, "ALTER TABLE drives DROP COLUMN ascent, DROP COLUMN descent");
    let outcome = rpc.site.run("teslamate-close-drive", &["--list"]).expect(10);
    outcome.says("is of a TeslaMate before 2.1: column public.drives.ascent is missing").says("2.1 or newer");
}

#[test]
fn the_route_is_chosen_and_said() {
    let rpc = rpc("route", CLOSE, "");
    let site = &rpc.site;
    let with = |executable: &str| {
        let line = format!("service.executable = {executable:?}");
        site.configure(&format!("port = {}", rpc.server.port()), if executable.is_empty() { "" } else { &line });
    };
    let why = |way: &str| {
        let outcome = site.run("teslamate-close-drive", &[way, "--json", "2"]).expect(0);
        let json = outcome.json();
        format!("{}: {}", json["via"].as_str().unwrap(), json["why"].as_str().unwrap())
    };
    let state = |state: &str| fs::write(site.systemctl.dir().join("state"), state).unwrap();
    assert_eq!(why("--via=auto"), "rpc: teslamate.service is running");
    assert_eq!(why("--via=rpc"), "rpc: --via rpc");
    assert_eq!(why("--via=sql"), "sql: --via sql");
    assert_eq!(why("--dry-run"), "sql: a dry run computes in the database and changes nothing");
    state("inactive");
    assert_eq!(why("--via=auto"), "sql: teslamate.service is not running");
    site.run("teslamate-close-drive", &["--via=rpc", "2"]).expect(10).says("rpc needs it");
    state("missing");
    assert_eq!(why("--via=auto"), "sql: there is no teslamate.service here");
    assert_eq!(why("--via=rpc"), "rpc: --via rpc");
    state("active");
    with("");
    assert_eq!(why("--via=auto"), "sql: teslamate.service is running, but `service.executable` is not set");
    site.run("teslamate-close-drive", &["--via=rpc", "2"]).expect(2).says("`service.executable` is not set");
    with("/nowhere/teslamate");
    assert_eq!(
        why("--via=auto"),
        "sql: teslamate.service is running, but /nowhere/teslamate is not a file that this account may execute"
    );
}

#[test]
fn r89_the_application_deletes_no_drive_unasked() {
    let rpc = rpc("rpc_deletes", "DELETE FROM drives WHERE id = :id;", "");
    let (server, site) = (rpc.server, &rpc.site);
    server.query(&site.database, "INSERT INTO drives (id, start_date, car_id) VALUES (7001, '2024-01-01', 1)");
    let before = server.content(&site.database);
    site.run("teslamate-close-drive", &["7001"]).expect(10).says("no positions").says("--allow-delete 7001");
    assert!(!site.path("called/argv").exists(), "the application was asked");
    assert_eq!(server.content(&site.database), before);

    let outcome = site.run("teslamate-close-drive", &["--allow-delete", "--json", "7001"]).expect(0);
    let result = outcome.json()["results"][0].clone();
    assert_eq!(result["status"], "deleted");
    let file = result["saved"].as_str().unwrap().to_owned();
    site.run("teslamate-delete-drive", &["--undo", &file]).expect(0);
    assert_eq!(server.content(&site.database), before);
}

#[test]
fn a_drive_that_the_application_kept_or_failed_to_delete_leaves_no_file() {
    for (sql, shell, code) in [(CLOSE, "", 0), ("", "exit 1", 10)] {
        let rpc = rpc("rpc_keeps", sql, shell);
        rpc.server
            .query(&rpc.site.database, "INSERT INTO drives (id, start_date, car_id) VALUES (7001, '2024-01-01', 1)");
        rpc.site.run("teslamate-close-drive", &["--allow-delete", "7001"]).expect(code);
        assert!(rpc.site.files("state/deleted").is_empty());
    }
}

#[test]
fn a_signal_ends_the_application_s_executable_too() {
    let rpc = rpc("rpc_hangs", "", "echo $$ > pid; sleep 60 & echo $! > child; wait");
    let id = rpc.open_drive();
    let child = rpc.site.command("teslamate-close-drive").arg(&id).spawn();
    let written = |name: &str| -> Option<PathBuf> {
        let id = fs::read_to_string(rpc.site.path("called").join(name)).ok()?;
        (!id.trim().is_empty()).then(|| PathBuf::from(format!("/proc/{}", id.trim())))
    };
    let give_up = Instant::now() + Duration::from_secs(10);
    while written("child").is_none() {
        assert!(Instant::now() < give_up, "the executable did not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("may still be closing it"), "{stderr}");
    let give_up = Instant::now() + Duration::from_secs(5);
    for name in ["pid", "child"] {
        let process = written(name).unwrap();
        let alive = || fs::read_to_string(process.join("stat")).is_ok_and(|stat| !stat.contains(") Z "));
        while alive() {
            assert!(Instant::now() < give_up, "{name} lives on");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
