//! Addresses of networks and hosts.
//!
//! Source: `network_send` and `network_recv` of PostgreSQL: the family, the bits of the mask, whether it is a `cidr`, how
//! many bytes follow, the address.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::field::{Checked, Field};

/// `PGSQL_AF_INET` and `PGSQL_AF_INET6`.
const FOUR: u8 = 2;
const SIX: u8 = 3;

/// Adds an `inet` or a `cidr`. The mask of a single host is only written for a `cidr`.
pub(super) fn address(field: &mut Field<'_>, is_cidr: bool, text: &mut Vec<u8>) -> Checked<()> {
    let (family, bits, flag, length) = (field.u8()?, field.u8()?, field.u8()?, field.u8()?);
    let bytes = field.bytes(usize::from(length))?;
    if flag != u8::from(is_cidr) {
        return Err("is an address of the other type, inet or cidr".to_owned());
    }
    let (address, number, size) = match (family, bytes) {
        (FOUR, &[a, b, c, d]) => {
            let address = Ipv4Addr::new(a, b, c, d);
            (address.to_string(), u128::from(address.to_bits()), 32)
        }
        (SIX, bytes) => {
            let bytes: [u8; 16] = bytes.try_into().map_err(|_| strange(family, length))?;
            let address = Ipv6Addr::from(bytes);
            (address.to_string(), address.to_bits(), 128)
        }
        _ => return Err(strange(family, length)),
    };
    if bits > size {
        return Err(format!("is an address with a mask of {bits} bits"));
    }
    // A host's part of no bits cannot be shifted by.
    let host = if bits == size { 0 } else { number & (u128::MAX >> (128 - u32::from(size - bits))) };
    if is_cidr && host != 0 {
        return Err("is a network whose address has bits beyond its mask".to_owned());
    }
    text.extend_from_slice(address.as_bytes());
    if is_cidr || bits != size {
        text.extend_from_slice(format!("/{bits}").as_bytes());
    }
    Ok(())
}

fn strange(family: u8, length: u8) -> String {
    format!("is an address of family {family} with {length} bytes")
}
