//! Root types a command on a terminal: the account that does the work neither has that terminal nor writes to it as it likes.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::privileges::{descendants, site, status};
use crate::support::binary::path_of;
use crate::support::{Site, probe};

/// The account tries to type `touch typed` into root's shell, by every descriptor it has and by `/dev/tty`.
const TYPIST: &str = "python3 - <<'END' >> NOTE 2>&1
import fcntl, os, termios
try:
    os.open('/dev/tty', os.O_RDWR)
    print('a terminal could be opened')
except OSError as error:
    print('no terminal:', error.strerror)
for number in range(64):
    try:
        if os.isatty(number):
            print('a terminal is at', number)
        fcntl.ioctl(number, termios.TIOCSTI, b'x')
        print('typed at', number)
    except OSError:
        pass
END
";

fn with_tools(site: &Site, script: &str) {
    let note = site.path("state/note");
    let tools = probe::tools(&site.path(""), &script.replace("NOTE", &note.display().to_string()));
    let config = fs::read_to_string(site.config()).unwrap();
    let (before, after) = config.split_once("[database]\n").expect("a section of the database");
    site.write_config(&format!("{before}[database]\ntools = {tools:?}\n{after}"));
}

#[test]
fn k18_the_worker_and_its_children_have_no_terminal_to_type_into() {
    let Some((_, site, _)) = site("typist") else { return };
    with_tools(&site, &format!("{TYPIST}exec $REAL \"$@\""));
    let (code, shown) = site.on_terminal("teslamate-backup", "private/a.dump").answer("");
    assert_eq!(code, Some(0), "{shown}");
    let note = fs::read_to_string(site.path("state/note")).unwrap();
    assert!(note.contains("no terminal: No such device or address"), "{note}");
    assert!(!note.contains("typed") && !note.contains("a terminal"), "{note}");
}

#[test]
fn k18_a_worker_has_a_session_of_its_own() {
    let Some((server, site, database)) = site("session") else { return };
    let lock = server.hold(&database, "LOCK TABLE cars IN ACCESS EXCLUSIVE MODE");
    let child = site.command("teslamate-backup").arg("private/a.dump").spawn();
    probe::pg_dump_of(child.id());
    let session = |pid: &str| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<String> = stat.rsplit_once(") ").unwrap().1.split(' ').map(str::to_owned).collect();
        (fields[3].clone(), fields[4].clone())
    };
    let ours = session(&child.id().to_string());
    for pid in descendants(child.id()) {
        let (number, terminal) = session(&pid);
        assert_ne!(number, ours.0, "{pid}");
        assert_eq!(terminal, "0", "{pid} has a terminal");
    }
    drop(lock);
    assert!(child.wait_with_output().unwrap().status.success());
}

#[test]
fn k18_root_is_asked_and_answers_though_the_worker_has_no_terminal() {
    let Some((server, site, database)) = site("asked") else { return };
    site.run("teslamate-backup", &["private/a.dump"]).expect(0);
    server.query(&database, "UPDATE positions SET drive_id = NULL; DELETE FROM drives");
    let before = server.content(&database);
    let answered = |answer: &str| site.on_terminal("teslamate-restore", "private/a.dump").answer(answer);
    let (code, shown) = answered("no");
    assert_eq!(code, Some(10), "{shown}");
    assert!(shown.contains("Type the database's name"), "{shown:?}");
    assert_eq!(server.content(&database), before);
    let (code, shown) = answered(&database);
    assert_eq!(code, Some(0), "{shown}");
    assert_ne!(server.content(&database), before);
}

#[test]
fn k18_words_of_others_do_not_act_upon_the_terminal() {
    let Some((_, site, _)) = site("words") else { return };
    with_tools(&site, r"printf 'pg_dump: error: \033]0;title\007\033[2J\302\2335n\342\200\256done\n' >&2; exit 1");
    let (code, shown) = site.on_terminal("teslamate-backup", "private/a.dump").answer("");
    assert_eq!(code, Some(12), "{shown}");
    let words = "\\u{1b}]0;title\\u{7}\\u{1b}[2J\\u{9b}5n\\u{202e}done";
    assert!(shown.contains(words), "{shown:?}");
    let plain = site.run("teslamate-backup", &["private/a.dump"]).expect(12);
    assert!(plain.stderr.contains(words), "{:?}", plain.stderr);
    let json = site.run("teslamate-backup", &["--json", "private/a.dump"]).expect(12).text();
    assert!(json.contains(r"\u009b5n\u202edone"), "{json:?}");
}

#[test]
fn k18_words_of_others_reach_the_service_manager_on_one_line() {
    let Some((_, site, _)) = site("status") else { return };
    let table = r"pg_dump: dumping contents of table \033[2J\rMAINPID=1\342\200\256";
    // A status is sent every two seconds, and needs something to tell.
    with_tools(&site, &format!("printf '{table}\\n' >&2; sleep 5; exit 1"));
    let path = site.path("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_nonblocking(true).unwrap();
    site.command("teslamate-backup").env("NOTIFY_SOCKET", &path).arg("private/a.dump").outcome();
    let (mut told, mut message) = (Vec::new(), [0; 8192]);
    while let Ok(length) = manager.recv(&mut message) {
        told.push(String::from_utf8_lossy(&message[..length]).into_owned());
    }
    let shown = "STATUS=\\u{1b}[2J\\rMAINPID=1\\u{202e}";
    assert!(told.iter().any(|message| message.lines().any(|line| line.starts_with(shown))), "{told:?}");
    let acts = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
    assert!(!told.concat().contains(acts) && !told.concat().contains("\nMAINPID"), "{told:?}");
}

#[test]
fn k18_an_argument_is_repeated_as_plain_text() {
    let wrong = Command::new(path_of("teslamate-restore")).arg("--x\u{9b}5n\u{202e}y").output().unwrap();
    let words = String::from_utf8(wrong.stderr).unwrap();
    assert_eq!(wrong.status.code(), Some(2));
    assert!(words.contains("--x\\u{9b}5n\\u{202e}y"), "{words:?}");
}

#[test]
fn k18_a_worker_that_is_stopped_does_not_make_root_deaf() {
    let Some((server, site, database)) = site("deaf") else { return };
    let _lock = server.hold(&database, "LOCK TABLE cars IN ACCESS EXCLUSIVE MODE");
    for sent in [Signal::SIGTERM, Signal::SIGINT] {
        let child = site.command("teslamate-backup").arg("private/a.dump").spawn();
        probe::pg_dump_of(child.id());
        let worker: u32 = descendants(child.id())[0].parse().unwrap();
        probe::signal(worker, Signal::SIGSTOP);
        probe::eventually(5, "it is stopped", || status(&worker.to_string(), "State").unwrap().starts_with('T'));
        let started = Instant::now();
        probe::signal(child.id(), sent);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(128 + sent as i32), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(started.elapsed() < Duration::from_secs(15));
    }
    assert_eq!(site.files("private"), Vec::<String>::new());
}
