//! Which types have a binary form that stays the same.
//!
//! The binary form of COPY loads in less time than text, but not every type promises one that another version of
//! PostgreSQL understands. Only those are listed whose form is part of the protocol in practice: drivers send and
//! receive them. A table with a column of any other type is copied as text.

use serde::{Deserialize, Serialize};

/// The form in which a table's rows are copied, as COPY calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CopyFormat {
    /// `FORMAT binary`
    Binary,
    /// `FORMAT text`
    Text,
}

impl CopyFormat {
    /// The word that COPY takes.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Binary => "binary",
            Self::Text => "text",
        }
    }

    /// How the name of a file with such rows ends, without the dot.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Self::Binary => "bin",
            Self::Text => "copy",
        }
    }
}

/// Built-in types, by their fixed OIDs. Source: `pg_type.dat` of PostgreSQL.
const STABLE: [u32; 23] = [
    16,   // bool
    17,   // bytea
    18,   // "char"
    20,   // int8
    21,   // int2
    23,   // int4
    25,   // text
    114,  // json
    650,  // cidr
    700,  // float4
    701,  // float8
    869,  // inet
    1042, // bpchar
    1043, // varchar
    1082, // date
    1083, // time
    1114, // timestamp
    1184, // timestamptz
    1186, // interval
    1266, // timetz
    1700, // numeric
    2950, // uuid
    3802, // jsonb
];

/// Whether a built-in type of this OID has a stable binary form.
#[must_use]
pub fn is_stable(oid: u32) -> bool {
    STABLE.contains(&oid)
}
