//! K18: what the first process, which keeps root's rights, still knows while the work is done.

use std::fs;
use std::io::{Read, Seek, SeekFrom};

use crate::connections::{PASSWORD, server};
use crate::support::Site;
use crate::support::network::private;
use crate::support::probe::eventually;
use crate::support::server::is_root;

const KEY: &str = "c4nary-0f-the-t0kens";

const STORAGE_KEY: &str = "c4nary-0f-the-st0rage";
const CONFIGURED: &str = "c4nary-0f-the-c0nfiguration";
const ENVIRONMENT: &str = "c4nary-0f-the-envir0nment";
const REPOSITORY: &str = "c4nary-0f-the-rep0sitory";

/// How often the process has this text in memory that it may write to, but for the environment that it was started with.
fn count(pid: u32, text: &str) -> usize {
    let mut memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut found = 0;
    for line in fs::read_to_string(format!("/proc/{pid}/maps")).unwrap().lines() {
        let mut words = line.split(' ');
        let (range, rights) = (words.next().unwrap(), words.next().unwrap());
        if !rights.starts_with("rw") || line.ends_with("[stack]") {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let number = |digits| u64::from_str_radix(digits, 16).unwrap();
        let mut bytes = vec![0; usize::try_from(number(to) - number(from)).unwrap()];
        memory.seek(SeekFrom::Start(number(from))).unwrap();
        if memory.read_exact(&mut bytes).is_ok() {
            found += memchr::memmem::find_iter(&bytes, text.as_bytes()).count();
        }
    }
    found
}

#[test]
fn k18_the_first_process_forgets_what_it_handed_over() {
    if !is_root() {
        return;
    }
    let server = server();
    let site = Site::new(server, &server.teslamate("forget"));
    let quoted = ["\\", "\"", "$"].iter().fold(PASSWORD.to_owned(), |text, c| text.replace(c, &format!("\\{c}")));
    private(&site.path("secrets"), &format!("DATABASE_PASS=\"{quoted}\"\nENCRYPTION_KEY={KEY}\n"));
    private(&site.path("password"), &format!("{REPOSITORY}\n"));
    private(&site.path("storage"), &format!("AWS_SECRET_ACCESS_KEY={STORAGE_KEY}\n"));
    let (password, state) = (site.path("password"), site.path("new/state"));
    site.write_config(&format!(
        "state_dir = {state:?}\nsecrets_file = {:?}\n[database]\nname = {:?}\nuser = \"by_scram\"\nhost = \"localhost\"\n\
         port = {}\nos_user = \"nobody\"\n[repository]\nlocation = {:?}\npassword_file = {password:?}\n\
         environment_file = {:?}\n[[copies]]\nlocation = \"s3:http://localhost:1/bucket\"\npassword_file = {password:?}\n\
         options = {{ secret_access_key = {CONFIGURED:?} }}\n",
        site.path("secrets"),
        site.database,
        server.port(),
        site.repository(),
        site.path("storage"),
    ));
    let held = server.hold(&site.database, "BEGIN; LOCK TABLE cars");
    let mut child = site.command("teslamate-backup").env("RESTIC_REST_PASSWORD", ENVIRONMENT).spawn();
    let waits = format!(
        "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database \
                         WHERE NOT granted AND datname = '{}'",
        site.database
    );
    eventually(30, "pg_dump waits", || {
        if let Some(status) = child.try_wait().unwrap() {
            let mut said = String::new();
            child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            panic!("{status}: {said}");
        }
        server.query("postgres", &waits) != "0"
    });
    let secrets = [PASSWORD, &quoted, KEY, CONFIGURED, REPOSITORY, STORAGE_KEY, ENVIRONMENT];
    let found = secrets.map(|secret| count(child.id(), secret));
    drop(held);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(found, [0; 7], "{secrets:?}");
}
