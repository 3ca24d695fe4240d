//! What the values of a column are, from what the manifest says of it.

use super::super::catalog::Column;
use super::field::Checked;
use super::value::Scalar;

/// The first OID that is given to what users make. Source: `access/transam.h` of PostgreSQL.
pub(super) const FIRST_OF_USERS: u32 = 16_384;

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A value by itself.
    Scalar(Scalar),
    /// An array, of one or more dimensions or none.
    Array(Scalar),
}

/// A built-in type that is copied in binary: its OID, that of its array, and what its values are.
/// Source: `pg_type.dat` of PostgreSQL.
const BUILT_IN: [(u32, u32, Scalar); 23] = [
    (16, 1000, Scalar::Bool),
    (17, 1001, Scalar::Bytes),
    (18, 1002, Scalar::Char),
    (20, 1016, Scalar::Int8),
    (21, 1005, Scalar::Int2),
    (23, 1007, Scalar::Int4),
    (25, 1009, Scalar::Text),
    (114, 199, Scalar::Text), // json
    (650, 651, Scalar::Cidr),
    (700, 1021, Scalar::Float4),
    (701, 1022, Scalar::Float8),
    (869, 1041, Scalar::Inet),
    (1042, 1014, Scalar::Text), // bpchar
    (1043, 1015, Scalar::Text), // varchar
    (1082, 1182, Scalar::Date),
    (1083, 1183, Scalar::Time),
    (1114, 1115, Scalar::Timestamp),
    (1184, 1185, Scalar::TimestampTz),
    (1186, 1187, Scalar::Interval),
    (1266, 1270, Scalar::TimeTz),
    (1700, 1231, Scalar::Numeric),
    (2950, 2951, Scalar::Uuid),
    (3802, 3807, Scalar::Jsonb),
];

impl Kind {
    /// Of a column. A type of a user that is copied in binary is an enum, or an array of one: no other type of a user
    /// is, and a name that itself ends in brackets is quoted.
    pub(super) fn of(column: &Column) -> Checked<Self> {
        let oid = column.type_oid;
        for (scalar, array, kind) in BUILT_IN {
            if oid == scalar {
                return Ok(Self::Scalar(kind));
            }
            if oid == array {
                return Ok(Self::Array(kind));
            }
        }
        match oid {
            FIRST_OF_USERS.. if column.type_name.ends_with("[]") => Ok(Self::Array(Scalar::Enum)),
            FIRST_OF_USERS.. => Ok(Self::Scalar(Scalar::Enum)),
            _ => Err(format!("has the type {} (OID {oid}), whose binary form is not known", column.type_name)),
        }
    }
}

impl Scalar {
    /// The OID that an array of such elements names them by; an enum's is one of users'.
    pub(super) fn has_oid(self, oid: u32) -> bool {
        match self {
            Self::Enum => oid >= FIRST_OF_USERS,
            _ => BUILT_IN.iter().any(|(scalar, _, kind)| *scalar == oid && *kind == self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::types::is_stable;

    #[test]
    fn exactly_what_is_copied_in_binary_can_be_decoded() {
        for oid in 0..FIRST_OF_USERS {
            let is_known = BUILT_IN.iter().any(|(scalar, _, _)| *scalar == oid);
            assert_eq!(is_known, is_stable(oid), "{oid}");
        }
    }
}
