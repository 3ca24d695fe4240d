//! The parser of secrets files against systemd itself: a booted host reads every file and says what it understood.
//!
//! Each file is the `EnvironmentFile=` of one unit that prints its environment. Generated files come from a seed, which
//! is printed; `TEST_SEED` repeats a run.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "the seed, and a skip that is seen")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use glovebox::settings::secrets;

use super::support::host::{Host, is_left_out};

/// Generated files of each of the three kinds.
const FILES_PER_KIND: usize = 150;
/// Generated values that every way of writing them down must carry unharmed, and how many share a file.
const VALUES: usize = 10_000;
const VALUES_PER_FILE: usize = 100;

/// What is known to be easily got wrong. Every one is a whole file.
const CORPUS: &[&[u8]] = &[
    b"",
    b"\n\n",
    b"A=",
    b"A=\n",
    b"A",
    b"=",
    b"=A",
    b"=A=b\nB=1",
    b"A=1\nA=2\n",
    b"A=1\nA=\n",
    b"A=1\nA\n",
    b"A==b==\n",
    b" \t A \t = \t b \t c \t \n",
    b"A=b\r\nB=c\r\n",
    b"A=b\rB=c\r",
    b"A='b\r\nc'\r\nB=d",
    b"A=b\\\r\nB=c",
    b"A=\"b\\\r\nc\"\nB=d",
    b"A=b \\\n  c\nB=d",
    b"A=\\\n\\\nb\\\n",
    b"A=b\\",
    b"A=b \\",
    b"A=\\\n \t ",
    b"A=\"b\\",
    b"A='b\nB=c\n",
    b"A=\"b\nB=c\n",
    b"A='b\\'\nB=c",
    b"A='b' 'c'\"d\" e 'f'\n",
    b"A=b'c'\"d\"\n",
    b"A=b'c\nB=d'\n",
    b"A=\"b\" # c\nB='c' ;d\nC=e #f\n",
    b"A=#b\nB=;c\n#C=d\n;D=e\n \t#E=f\n",
    b"# a \\\nA=1\n# a \\\\\nB=2\n# a \\x\nC=3\n; a \\",
    b"#\\",
    b"# a \\\r\nA=1\n# b\rB=2",
    b"A=\"\\a\\b\\n\\t\\\"\\'\\\\\\`\\$\\ \\=\\\nb\"\n",
    b"A=\\a\\b\\n\\t\\\"\\'\\\\\\`\\$\\ \\=\\\nb\n",
    b"A='\\a\\b\\n\\\"\\\\\\`\\$\\\nb'\n",
    b"A=$HOME ${HOME} $(id) `id` %n %h ~ * ! & | < >\nB=\"$HOME ${A} $(id) %n\"",
    b"export A=1\nB=2",
    b"export\tA=1\nB=2",
    b"A B=1\nC=2",
    b"'A'=1\n\"B\"=2\nA\\\n=3\nD=4",
    b"1A=1\n_=2\n_1=3\nA-B=4\nA.B=5\nA+=6\na=7\nA[0]=8\n\xc3\xa9=9\nA\xc3\xa9=1",
    b"\xef\xbb\xbfA=1\nB=2",
    b"\xef\xbb\xbf# A\nB=2",
    b"\xef\xbb\xbf\nB=2",
    b"A=\xef\xbb\xbfb",
    b"A=\xc3\xa9\xe2\x82\xac\xf0\x9f\x9a\x97",
    b"A=1\nB=\xff\nC=2",
    b"A=1\n\xff=2",
    b"A=1\n\xff\nC=2",
    b"# \xff\nA=1",
    b"A=\xed\xa0\x80",
    b"A=\xc0\x80",
    b"A=\xf4\x90\x80\x80",
    b"A=\xe2\x82",
    b"A=\xe2\x82'\nB=1",
    b"A=\xef\xb7\x90",
    b"A=\xef\xb7\xaf",
    b"A=\xef\xb7\xb0\xef\xbf\xbd\xee\x80\x80",
    b"A=\xef\xbf\xbe",
    b"A=\xef\xbf\xbf",
    b"A=\xf0\x9f\xbf\xbe",
    b"A=\xf4\x8f\xbf\xbf",
    b"A=1\nB=\xef\xbf\xbf\nB=2",
    b"A=1\n1B=\xff",
    b"A=\0",
    b"A=1\n\0",
    b"# \0\nA=1",
    b"A\0B\n",
    b"\xff\xfeA\0=\0b\0",
    b"A=\x01\x07\x08\x0b\x0c\x1b\x7f\xc2\x80\xc2\xa0\nB=\x0b\nC=\x0c b\x0c",
    b"\x0bA=1\nB\x0b=2\nC=3",
    b"A='\x0b\x0c'\x0bb",
    b"A=b\tc\t\nB=\"\tb\t\"\nC=\\\tb\\\t\n",
    b"PATH=/nowhere\nHOME=\nLANG='x y'\nINVOCATION_ID=mine",
    b"LISTEN_FDS=3\nNOTIFY_SOCKET=/x\nMAINPID=1\nCREDENTIALS_DIRECTORY=/y\nLOGNAME=me",
    b"DATABASE_PASS=\"' \\\" $ \\` % # = \\\\ \"\nDATABASE_USER='team mate' \nENCRYPTION_KEY= abc==\n",
];

/// `SplitMix64`: small, and the same numbers for a seed on every machine and with every library.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }

    fn any_bytes(&mut self) -> Vec<u8> {
        (0..self.below(60)).map(|_| self.next().to_le_bytes()[0]).collect()
    }

    /// Pieces that mean something to the parser, in any order.
    fn soup(&mut self) -> Vec<u8> {
        const USUAL: &[&str] = &[
            "A", "B", "A=", "=", "'", "\"", "\\", "\n", "\r", " ", "\t", "#", ";", "$", "`", "1", "_", "é", "%", "\nC=",
        ];
        const RARE: &[&[u8]] =
            &[b"\xff", b"\xc3", b"\xef\xbb\xbf", b"\xef\xbf\xbf", b"\xed\xa0\x80", b"\0", b"\x7f", b"\x0b"];
        let mut file = Vec::new();
        for _ in 0..self.below(50) {
            file.extend(if self.one_in(200) { self.pick(RARE) } else { self.pick(USUAL).as_bytes() });
        }
        file
    }

    /// Assignments as people and programs write them, with what they get wrong.
    fn lines(&mut self) -> Vec<u8> {
        const NAMES: &[&str] =
            &["A", "B", "A", "C_1", "_D", "long_NAME_2", "1A", "A B", "A-B", "é", "", "export A", "#A", "'A'"];
        const BLANKS: &[&str] = &["", "", "", " ", "\t ", "  "];
        const ENDS: &[&str] = &["\n", "\n", "\n\n", "\r\n", "\r", "\\\n", " # B=1\n", "\n#\\\n"];
        let mut file = String::new();
        for _ in 0..=self.below(8) {
            let equals = if self.one_in(15) { "" } else { "=" };
            for part in [self.pick(BLANKS), self.pick(NAMES), self.pick(BLANKS), equals, self.pick(BLANKS)] {
                file.push_str(part);
            }
            for _ in 0..self.below(4) {
                let inner = self.text(12);
                match self.below(4) {
                    0 => _ = write!(file, "'{inner}'"),
                    1 => _ = write!(file, "\"{inner}\""),
                    2 => file.push_str(&inner),
                    _ => file.push_str(&double_quoted(&inner)),
                }
                file.push_str(self.pick(BLANKS));
            }
            file.push_str(self.pick(ENDS));
        }
        file.into_bytes()
    }

    /// Text without any restriction but the two of the format: no NUL byte, no noncharacter.
    fn text(&mut self, longest: usize) -> String {
        const SPECIAL: &[&str] = &[
            "'", "\"", "\\", "\n", "\r", " ", "\t", "#", ";", "$", "`", "=", "%", "é", "🚗", "\u{feff}", "\x0b", "${A}",
        ];
        let mut text = String::new();
        for _ in 0..self.below(longest + 1) {
            if self.one_in(3) {
                text.push_str(self.pick(SPECIAL));
            } else {
                text.push(char::from(b' ' + u8::try_from(self.below(95)).unwrap()));
            }
        }
        text
    }

    /// One of the ways in which a value can be written down.
    fn written(&mut self, value: &str) -> String {
        let bare = !value.contains(['\n', '\r']);
        match self.below(4) {
            0 if !value.contains('\'') => format!("'{value}'"),
            1 if bare => value.chars().flat_map(|c| ['\\', c]).collect(),
            // Halves in different quotes, with blanks between that do not count.
            2 => {
                let half = value.char_indices().nth(value.chars().count() / 2).map_or(0, |(at, _)| at);
                let (first, second) = value.split_at(half);
                let first = if first.contains('\'') { double_quoted(first) } else { format!("'{first}'") };
                format!("{first} \t{}", double_quoted(second))
            }
            _ => double_quoted(value),
        }
    }
}

fn double_quoted(value: &str) -> String {
    let escaped = |c: char| if "\"\\`$".contains(c) { vec!['\\', c] } else { vec![c] };
    format!("\"{}\"", value.chars().flat_map(escaped).collect::<String>())
}

/// What a reader made of a file: the variables, or nothing because it refuses the file.
type Reading = Option<BTreeMap<Vec<u8>, Vec<u8>>>;

fn our_reading(file: &[u8]) -> Reading {
    let parsed = secrets::parse(file);
    let bytes = |(name, value): (&String, &secrets::Secret)| (name.clone().into_bytes(), value.expose().into());
    (!parsed.refused).then(|| parsed.assignments.iter().map(bytes).collect())
}

/// What systemd made of each file. The failed units are told apart from broken ones by their result.
fn readings(host: &Host, cases: &Path, files: &[Vec<u8>]) -> Vec<Reading> {
    for (number, file) in files.iter().enumerate() {
        fs::write(cases.join(number.to_string()), file).unwrap();
    }
    let unit = "[Service]\nType=oneshot\nEnvironmentFile=/cases/%i\nExecStart=/usr/bin/env -0\n\
        StandardOutput=truncate:/cases/%i.read\nStandardError=null\n";
    fs::write(cases.join("reader@.service"), unit).unwrap();
    // `start` fails if one unit does, as those of refused files must: the result of each is asked for below.
    let script = format!(
        "cp /cases/reader@.service /run/systemd/system/ && systemctl daemon-reload
        systemctl start reader@{{0..{last}}}.service
        systemctl show --property=Result reader@{{0..{last}}}.service",
        last = files.len() - 1
    );
    let shown = host.run(&script);
    let results: Vec<_> = std::str::from_utf8(&shown.stdout).unwrap().split_whitespace().collect();
    assert_eq!(results.len(), files.len(), "{}", String::from_utf8_lossy(&shown.stderr));
    let read = |(number, result): (usize, &&str)| {
        let output = fs::read(cases.join(format!("{number}.read")));
        match (*result, output) {
            ("Result=success", Ok(environment)) => Some(variables(&environment)),
            ("Result=resources", Err(_)) => None,
            (result, output) => panic!("{result}, {output:?} for {}", files[number].escape_ascii()),
        }
    };
    results.iter().enumerate().map(read).collect()
}

/// The output of `env -0`.
fn variables(environment: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let entries = environment.split(|&byte| byte == 0).filter(|entry| !entry.is_empty());
    entries
        .map(|entry| {
            let equals = entry.iter().position(|&byte| byte == b'=').unwrap();
            (entry[..equals].to_vec(), entry[equals + 1..].to_vec())
        })
        .collect()
}

fn seed() -> u64 {
    match std::env::var("TEST_SEED") {
        Ok(seed) => seed.parse().expect("TEST_SEED is a number"),
        Err(_) => u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos()),
    }
}

#[test]
fn every_secrets_file_is_read_as_systemd_reads_it() {
    if is_left_out("secrets files against systemd") {
        return;
    }
    let seed = seed();
    eprintln!("seed: TEST_SEED={seed}");
    let mut random = Random(seed);

    let mut files: Vec<Vec<u8>> = CORPUS.iter().map(|file| file.to_vec()).collect();
    files.push(format!("A=1\nA={}\nB=2", "x".repeat(128 * 1024 - 3)).into_bytes());
    for _ in 0..FILES_PER_KIND {
        files.extend([random.any_bytes(), random.soup(), random.lines()]);
    }
    let mut expected = BTreeMap::new();
    for _ in 0..VALUES / VALUES_PER_FILE {
        let values: Vec<_> = (0..VALUES_PER_FILE).map(|_| random.text(40)).collect();
        let mut file = String::new();
        for (number, value) in values.iter().enumerate() {
            writeln!(file, "V{number}={}", random.written(value)).unwrap();
        }
        expected.insert(files.len(), values);
        files.push(file.into_bytes());
    }

    let cases = tempfile::tempdir().unwrap();
    let host = Host::start(&[format!("--bind={}:/cases", cases.path().display())]);
    let readings = readings(&host, cases.path(), &files);
    drop(host);

    // What systemd sets by itself, which the empty file of the corpus shows, counts only where a file sets it too.
    let own: BTreeSet<_> = readings[0].iter().flatten().map(|(name, _)| name.clone()).collect();
    let mut differences = String::new();
    for (number, (file, theirs)) in files.iter().zip(&readings).enumerate() {
        let ours = our_reading(file);
        let theirs = theirs.clone().map(|mut variables| {
            variables.retain(|name, _| !own.contains(name) || ours.iter().any(|ours| ours.contains_key(name)));
            variables
        });
        if ours != theirs {
            let (ours, theirs) = (printed(&ours), printed(&theirs));
            writeln!(differences, "file:    {}\n ours:    {ours}\n systemd: {theirs}", file.escape_ascii()).unwrap();
        }
        for (name, value) in expected.get(&number).into_iter().flatten().enumerate() {
            let read = ours.as_ref().and_then(|ours| ours.get(format!("V{name}").as_bytes()));
            assert_eq!(read.map(Vec::as_slice), Some(value.as_bytes()), "seed {seed}: V{name} of file {number}");
        }
    }
    assert!(differences.is_empty(), "seed {seed}:\n{differences}");

    // A generator that makes nothing but refused or empty files would prove nothing.
    let refused = readings.iter().filter(|reading| reading.is_none()).count();
    let read = readings.iter().flatten().filter(|variables| variables.keys().any(|name| !own.contains(name))).count();
    eprintln!("{} files: {read} with variables, {refused} refused", files.len());
    assert!(refused >= 20 && read >= 300, "the generated files are too much alike");
}

fn printed(reading: &Reading) -> String {
    reading.as_ref().map_or("refused".to_owned(), |variables| {
        let shown = |(name, value): (&Vec<u8>, &Vec<u8>)| format!("{}={} ", name.escape_ascii(), value.escape_ascii());
        variables.iter().map(shown).collect()
    })
}
