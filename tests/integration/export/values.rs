//! Values of every type that is copied in binary: the edges, and random ones.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::SinkExt;
use glovebox::database::Connector;

/// The types, each with values at its edges.
const EDGES: [(&str, &[&str]); 25] = [
    ("bool", &["t", "f"]),
    ("\"char\"", &["A", "", "\\303", "\\", "\t", "N"]),
    ("int2", &["-32768", "32767", "0"]),
    ("int4", &["-2147483648", "2147483647", "0"]),
    ("int8", &["-9223372036854775808", "9223372036854775807", "0"]),
    ("float4", &["NaN", "Infinity", "-Infinity", "-0", "1e-45", "3.4028235e38", "1e6", "999999", "0.0001", "0.00001"]),
    ("float8", &["NaN", "Infinity", "-Infinity", "-0", "5e-324", "1.7976931348623157e308", "1e15", "999999999999999"]),
    ("numeric", &["NaN", "Infinity", "-Infinity", "0", "0.000", "-0.00", "1e131071", "-1e-16383", "1e4", "10000.0001"]),
    (
        "text",
        &[
            "",
            "NULL",
            "null",
            "\\N",
            "\\.",
            "\\",
            "{}",
            "a,b",
            "\"",
            "it's",
            " ",
            "\u{8}\t\n\u{b}\u{c}\r",
            "🚗 ü\u{1}\u{7f}",
        ],
    ),
    ("varchar(5)", &["", "äöüßé", "  x  "]),
    ("char(5)", &["", "a", "äöüßé", "a    "]),
    ("bytea", &["", "\\x00", "\\x5c2e0a", "\\x08090a0b0c0d5c22277b7d2cff"]),
    ("date", &["infinity", "-infinity", "4714-11-24 BC", "0001-12-31 BC", "0001-01-01", "5874897-12-31", "2000-02-29"]),
    ("time", &["00:00:00", "24:00:00", "23:59:59.999999", "12:00:00.1"]),
    ("timetz", &["24:00:00-15:59:59", "00:00:00+15:59:59", "12:00:00+00", "12:00:00-03:30"]),
    (
        "timestamp",
        &["infinity", "-infinity", "4714-11-24 00:00:00 BC", "294276-12-31 23:59:59.999999", "1999-12-31 23:59:59.5"],
    ),
    (
        "timestamptz",
        &[
            "infinity",
            "-infinity",
            "4714-11-24 00:00:00+00 BC",
            "294276-12-31 23:59:59.999999+00",
            "0001-01-01 00:00:00+00",
        ],
    ),
    (
        "interval",
        &[
            "0",
            "178956970 years 7 mons 2147483647 days 2562047788:00:54.775807",
            "-178956970 years -8 mons -2147483648 days -2562047788:00:54.775807",
            "-1 mons +1 day -00:00:00.5",
            "1 year -1 days",
        ],
    ),
    ("uuid", &["00000000-0000-0000-0000-000000000000", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]),
    ("json", &["{\"b\": 1,  \"a\": \"\\u0000 \\n \\\\\"}", "null", "\"\""]),
    ("jsonb", &["{\"b\": 1e400, \"a\": \"\\n \\ud83d\\ude97\", \"\": []}", "null", "[1.0, 1.00]"]),
    (
        "inet",
        &[
            "10.1.2.3",
            "10.1.2.3/8",
            "0.0.0.0/0",
            "::",
            "::1/0",
            "2001:db8::1",
            "::ffff:1.2.3.4",
            "::1.2.3.4",
            "1:0:0:2::/13",
        ],
    ),
    ("cidr", &["10.0.0.0/8", "10.1.2.3/32", "0.0.0.0/0", "2001:db8::/32", "::/0", "::1/128"]),
    ("torture.mood", &["sad", "", "it's \"fine\"", "in between"]),
    ("int2vector", &["", "1", "1 -2 32767"]),
];

/// Makes a table for each type, with its edges alone and in arrays.
pub fn edges() -> String {
    let mut sql = "CREATE SCHEMA edges; SET timezone = 'UTC';\n".to_owned();
    for (number, (type_name, values)) in EDGES.iter().enumerate() {
        let list: Vec<String> = values.iter().map(|value| glovebox::database::literal(value)).collect();
        let list = list.join(", ");
        if *type_name == "int2vector" {
            let _ = writeln!(sql, "CREATE TABLE edges.t{number} AS SELECT unnest(ARRAY[{list}]::int2vector[]) AS v;");
            continue;
        }
        let _ = writeln!(
            sql,
            "CREATE TABLE edges.t{number} (v {type_name}, a {type_name}[]); \
             INSERT INTO edges.t{number} SELECT v, ARRAY[[v, NULL], [v, v]] FROM unnest(ARRAY[{list}]::{type_name}[]) AS v; \
             INSERT INTO edges.t{number} VALUES (NULL, NULL), (NULL, '{{}}'), (NULL, '{{NULL}}'), (NULL, ARRAY[{list}]::{type_name}[]); \
             INSERT INTO edges.t{number} (a[-1:0][7:7][0:0]) VALUES (ARRAY[[[{first}]], [[NULL]]]::{type_name}[]);",
            first = glovebox::database::literal(values[0]),
        );
    }
    sql
}

/// Random bits, the same for the same seed.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// From `least` to `most`.
    fn between(&mut self, least: i64, most: i64) -> i64 {
        let span = i128::from(most) - i128::from(least) + 1;
        i64::try_from(i128::from(least) + i128::from(self.bits()).rem_euclid(span)).unwrap()
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.bits().is_multiple_of(count)
    }

    fn text(&mut self) -> String {
        let length = self.between(0, 12);
        let mut text = String::new();
        for _ in 0..length {
            text.push(match self.between(0, 3) {
                0 => *b"\\\"'{},.N \t\n\r\x08\x0b\x0c".get(usize::try_from(self.between(0, 13)).unwrap()).unwrap()
                    as char,
                1 => char::from_u32(u32::try_from(self.between(1, 0x7f)).unwrap()).unwrap(),
                2 => char::from_u32(u32::try_from(self.between(0x80, 0xd7ff)).unwrap()).unwrap(),
                _ => char::from_u32(u32::try_from(self.between(0x1_0000, 0x10_ffff)).unwrap()).unwrap(),
            });
        }
        text
    }
}

/// A type for random values: its name, its OID, and bytes as they are received.
type Maker = (&'static str, u32, fn(&mut Random) -> Vec<u8>);

fn big<const N: usize>(random: &mut Random) -> Vec<u8> {
    (0..N).map(|_| random.bits().to_le_bytes()[5]).collect()
}

fn json(random: &mut Random) -> String {
    let (key, value) = (random.text(), random.text());
    serde_json::json!({ key: [value, random.between(-9, 9), null_or(random)] }).to_string()
}

fn null_or(random: &mut Random) -> Option<f64> {
    #[allow(clippy::cast_precision_loss)]
    (!random.one_in(3)).then(|| random.between(-1_000_000, 1_000_000) as f64 / 1024.0)
}

fn numeric(random: &mut Random) -> Vec<u8> {
    if random.one_in(8) {
        let special = [0xc000_u16, 0xd000, 0xf000][usize::try_from(random.between(0, 2)).unwrap()];
        return [0, 0, special, 0].iter().flat_map(|number: &u16| number.to_be_bytes()).collect();
    }
    let count = random.between(0, 12);
    let sign = if random.one_in(2) { 0x4000 } else { 0 };
    let head = [count, random.between(-15, 15), sign, random.between(0, 60)];
    let groups: Vec<i64> = (0..count).map(|_| if random.one_in(4) { 0 } else { random.between(0, 9999) }).collect();
    let numbers = head.iter().chain(&groups);
    numbers.flat_map(|number| i16::try_from(*number).unwrap().to_be_bytes()).collect()
}

fn address(random: &mut Random, is_cidr: bool) -> Vec<u8> {
    let is_four = random.one_in(2);
    let size: u32 = if is_four { 32 } else { 128 };
    let bits = u32::try_from(random.between(0, size.into())).unwrap();
    let mut number = u128::from(random.bits()) << 64 | u128::from(random.bits());
    // Runs of zeros, which are written in a short form.
    for word in 0..8 {
        if random.one_in(2) {
            number &= !(0xffff << (16 * word));
        }
    }
    number >>= 128 - size;
    if is_cidr {
        number &= u128::MAX.checked_shl(size - bits).unwrap_or(0);
    }
    let family = if is_four { 2 } else { 3 };
    let mut bytes = vec![family, u8::try_from(bits).unwrap(), u8::from(is_cidr), u8::try_from(size / 8).unwrap()];
    bytes.extend(&number.to_be_bytes()[16 - usize::try_from(size / 8).unwrap()..]);
    bytes
}

fn moment(random: &mut Random) -> Vec<u8> {
    const LEAST: i64 = -211_813_488_000_000_000;
    const MOST: i64 = 9_223_371_331_199_999_999;
    let value = match random.between(0, 5) {
        0 => [i64::MIN, i64::MAX, LEAST, MOST][usize::try_from(random.between(0, 3)).unwrap()],
        1 => random.between(LEAST, MOST),
        2 => random.between(LEAST, -LEAST),
        // Whole seconds of this age.
        3 => random.between(0, 1_000_000_000) * 1_000_000,
        _ => random.between(0, 1_000_000_000_000_000),
    };
    value.to_be_bytes().to_vec()
}

const MAKERS: [Maker; 24] = [
    ("bool", 16, |random| vec![u8::from(random.one_in(2))]),
    ("bytea", 17, |random| random.text().into_bytes().into_iter().chain(big::<3>(random)).collect()),
    ("\"char\"", 18, big::<1>),
    ("int8", 20, big::<8>),
    ("int2", 21, big::<2>),
    ("int4", 23, big::<4>),
    ("text", 25, |random| random.text().into_bytes()),
    ("json", 114, |random| json(random).into_bytes()),
    ("cidr", 650, |random| address(random, true)),
    ("float4", 700, big::<4>),
    ("float8", 701, big::<8>),
    ("inet", 869, |random| address(random, false)),
    ("bpchar", 1042, |random| random.text().into_bytes()),
    ("varchar", 1043, |random| random.text().into_bytes()),
    ("date", 1082, |random| {
        let day = if random.one_in(9) {
            i32::MAX.into()
        } else {
            random.between(-2_451_545, 2_145_031_948) >> random.between(0, 12)
        };
        i32::try_from(day).unwrap().to_be_bytes().to_vec()
    }),
    ("time", 1083, |random| random.between(0, 86_400_000_000).to_be_bytes().to_vec()),
    ("timestamp", 1114, moment),
    ("timestamptz", 1184, moment),
    ("interval", 1186, |random| {
        let (shift, mut bytes) = (random.between(0, 40), Vec::new());
        // The smallest has no text that the server both writes and reads; it has a test of its own.
        bytes.extend((random.between(i64::MIN + 1, i64::MAX) >> shift).max(i64::MIN + 1).to_be_bytes());
        bytes.extend(
            i32::try_from(random.between(i32::MIN.into(), i32::MAX.into()) >> random.between(0, 30))
                .unwrap()
                .to_be_bytes(),
        );
        bytes.extend(
            i32::try_from(random.between(i32::MIN.into(), i32::MAX.into()) >> random.between(0, 30))
                .unwrap()
                .to_be_bytes(),
        );
        bytes
    }),
    ("timetz", 1266, |random| {
        let zone = if random.one_in(2) { random.between(-63, 63) * 900 } else { random.between(-57_599, 57_599) };
        let zone = i32::try_from(zone).unwrap();
        random.between(0, 86_400_000_000).to_be_bytes().into_iter().chain(zone.to_be_bytes()).collect()
    }),
    ("numeric", 1700, numeric),
    ("uuid", 2950, big::<16>),
    ("jsonb", 3802, |random| [b"\x01", json(random).replace("\\u0000", "").as_bytes()].concat()),
    // By its label, whatever its OID is.
    ("torture.mood", 0, |random| {
        ["sad", "ok", "", "in between"][usize::try_from(random.between(0, 3)).unwrap()].into()
    }),
];

fn array(random: &mut Random, oid: u32, element: fn(&mut Random) -> Vec<u8>) -> Vec<u8> {
    let dimensions = random.between(0, 3);
    let mut count = i64::from(dimensions > 0);
    let mut bounds = Vec::new();
    for _ in 0..dimensions {
        let (size, lower) = (random.between(1, 3), if random.one_in(2) { 1 } else { random.between(-5, 5) });
        count *= size;
        bounds.extend([size, lower]);
    }
    let mut bytes = i32::try_from(dimensions).unwrap().to_be_bytes().to_vec();
    bytes.extend(1_i32.to_be_bytes());
    bytes.extend(oid.to_be_bytes());
    bytes.extend(bounds.into_iter().flat_map(|number| i32::try_from(number).unwrap().to_be_bytes()));
    for _ in 0..count {
        let value = (!random.one_in(5)).then(|| element(random));
        field(&mut bytes, value.as_deref());
    }
    bytes
}

fn field(bytes: &mut Vec<u8>, value: Option<&[u8]>) {
    bytes.extend(value.map_or(-1, |value| i32::try_from(value.len()).unwrap()).to_be_bytes());
    bytes.extend(value.unwrap_or_default());
}

/// Makes a table with a column of each type and one of its array, with random rows that the server received in binary.
/// `TEST_SEED` repeats a run.
pub async fn random(connector: &Connector) {
    let given = std::env::var("TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
    let seed: u64 = given.unwrap_or_else(|| clock().into());
    println!("TEST_SEED={seed}");
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let client = connector.connect().await.unwrap();
    let columns: Vec<String> = MAKERS
        .iter()
        .enumerate()
        .map(|(number, (name, _, _))| format!("v{number} {name}, a{number} {name}[]"))
        .collect();
    client.batch_execute(&format!("CREATE TABLE edges.random ({})", columns.join(", "))).await.unwrap();
    let mood: u32 = client.query_one("SELECT 'torture.mood'::regtype::oid", &[]).await.unwrap().get(0);
    let mut bytes = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    for _ in 0..500 {
        bytes.extend(i16::try_from(2 * MAKERS.len()).unwrap().to_be_bytes());
        for (_, oid, make) in MAKERS {
            let value = (!random.one_in(10)).then(|| make(&mut random));
            field(&mut bytes, value.as_deref());
            let oid = if oid == 0 { mood } else { oid };
            let value = (!random.one_in(10)).then(|| array(&mut random, oid, make));
            field(&mut bytes, value.as_deref());
        }
    }
    bytes.extend([0xff, 0xff]);
    let sink = client.copy_in::<_, std::io::Cursor<Vec<u8>>>("COPY edges.random FROM STDIN (FORMAT binary)");
    let sink = sink.await.unwrap();
    let mut sink = std::pin::pin!(sink);
    sink.send(std::io::Cursor::new(bytes)).await.unwrap();
    sink.finish().await.unwrap();
}
