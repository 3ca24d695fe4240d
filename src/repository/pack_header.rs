//! Headers of packs: which blobs lie where in a pack, written at its end.
//!
//! An index says the same, so a header is needed only where an index was lost, or where a pack is assembled from what
//! is left of another one.
//!
//! Source: restic's `doc/design.rst`, "Pack Format".

use serde_json::{Value, json};

use super::id::Id;
use super::vault::{Place, Vault};

/// Bytes of the length at the end of a pack.
const LENGTH: usize = 4;
/// Bytes of nonce and code around what is encrypted.
const OVERHEAD: u32 = 32;

/// The blobs in a whole pack; nothing if its header is not one.
pub(super) fn read(vault: &Vault, pack: Id, raw: &[u8]) -> Option<Vec<Place>> {
    let (rest, length) = raw.split_at_checked(raw.len().checked_sub(LENGTH)?)?;
    let length = usize::try_from(u32::from_le_bytes(length.try_into().ok()?)).ok()?;
    let header = vault.decrypt(rest.get(rest.len().checked_sub(length)?..)?)?;
    let (mut entries, mut places, mut offset) = (&*header, Vec::new(), 0_u32);
    while let Some((kind, more)) = entries.split_first() {
        let (compressed, is_tree) = match kind {
            0..=3 => (kind & 2 != 0, kind & 1 != 0),
            _ => return None,
        };
        let (length, more) = number(more)?;
        let plain = length.checked_sub(OVERHEAD)?;
        let (size, more) = if compressed { number(more)? } else { (plain, more) };
        let (blob, more) = more.split_first_chunk::<32>()?;
        places.push(Place { blob: Id::from(*blob), pack, offset, length, size, compressed, is_tree });
        offset = offset.checked_add(length)?;
        entries = more;
    }
    Some(places)
}

fn number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*number), rest))
}

/// A new pack with these blobs of another one, which hold `raw` as their encrypted bytes.
///
/// # Errors
/// If the header cannot be encrypted, or the pack is larger than one can be.
pub(super) fn assemble(vault: &Vault, blobs: &[(Place, &[u8])]) -> std::io::Result<(Vec<u8>, Vec<Place>)> {
    let too_large = |_| std::io::Error::other("the pack is too large");
    let (mut bytes, mut header, mut places) = (Vec::new(), Vec::new(), Vec::new());
    for (place, raw) in blobs {
        header.push(u8::from(place.compressed) << 1 | u8::from(place.is_tree));
        header.extend(place.length.to_le_bytes());
        if place.compressed {
            header.extend(place.size.to_le_bytes());
        }
        header.extend(place.blob.bytes());
        places.push(Place { offset: u32::try_from(bytes.len()).map_err(too_large)?, ..*place });
        bytes.extend_from_slice(raw);
    }
    let sealed = vault.seal(&header)?;
    bytes.extend_from_slice(&sealed);
    bytes.extend(u32::try_from(sealed.len()).map_err(too_large)?.to_le_bytes());
    let pack = Id::of(&bytes);
    for place in &mut places {
        place.pack = pack;
    }
    Ok((bytes, places))
}

/// An index of these packs, as it is stored.
pub(super) fn index_of(packs: &[(Id, Vec<Place>)]) -> Value {
    let blob = |place: &Place| {
        let kind = if place.is_tree { "tree" } else { "data" };
        let mut blob =
            json!({ "id": place.blob.to_string(), "type": kind, "offset": place.offset, "length": place.length });
        if place.compressed {
            blob["uncompressed_length"] = place.size.into();
        }
        blob
    };
    let packs = packs
        .iter()
        .map(|(id, places)| json!({ "id": id.to_string(), "blobs": places.iter().map(blob).collect::<Vec<_>>() }));
    json!({ "packs": packs.collect::<Vec<_>>() })
}
