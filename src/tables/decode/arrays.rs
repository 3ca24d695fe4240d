//! Arrays: of any number of dimensions and any lower bounds, with NULLs.
//!
//! Source: PostgreSQL documentation, "Array Input and Output Syntax"; `array_send` of PostgreSQL: the number of
//! dimensions, whether there are NULLs, the OID of the elements, then for each dimension its size and lower bound, then
//! the elements, each with its length.

use super::field::{Checked, Field};
use super::text::quote;
use super::value::Scalar;

/// More dimensions than this no array has. Source: PostgreSQL documentation, "Limits" of arrays (`MAXDIM`).
const MOST_DIMENSIONS: i32 = 6;

/// An array on its way to text, an element at a time.
pub(super) struct Array<'a> {
    element: Scalar,
    version: u32,
    rest: Field<'a>,
    may_have_nulls: bool,
    /// The sizes, outermost first.
    sizes: Vec<u64>,
    /// How many elements there are, and how many are written.
    count: u64,
    done: u64,
    head: Option<Vec<u8>>,
    plain: Vec<u8>,
    piece: Vec<u8>,
}

impl<'a> Array<'a> {
    /// Reads what comes before the elements.
    pub(super) fn new(element: Scalar, value: &'a [u8], version: u32) -> Checked<Self> {
        let mut rest = Field(value);
        let (bounds, may_have_nulls) = head(element, &mut rest)?;
        let sizes: Vec<u64> = bounds.iter().map(|(_, size)| size.unsigned_abs()).collect();
        let any = u64::from(!sizes.is_empty());
        let count = sizes.iter().try_fold(any, |count, size| count.checked_mul(*size));
        // Each element has four bytes at least, so there can never be more than that.
        let count = count.filter(|count| *count <= rest.0.len() as u64 / 4);
        let count = count.ok_or("is an array that is cut: it has fewer elements than its dimensions say")?;
        let mut text = Vec::new();
        if count == 0 {
            rest.end().map_err(|_| "is an empty array with elements".to_owned())?;
            text.extend_from_slice(b"{}");
        } else if bounds.iter().any(|(lower, _)| *lower != 1) {
            for (lower, size) in &bounds {
                text.extend_from_slice(format!("[{lower}:{}]", lower + size - 1).as_bytes());
            }
            text.push(b'=');
        }
        Ok(Self {
            element,
            version,
            rest,
            may_have_nulls,
            sizes,
            count,
            done: 0,
            head: Some(text),
            plain: Vec::new(),
            piece: Vec::new(),
        })
    }

    /// The next piece of the text: what comes before the elements, then one of them with the braces around it.
    pub(super) fn next_piece(&mut self) -> Checked<Option<&[u8]>> {
        self.piece.clear();
        if let Some(head) = self.head.take() {
            self.piece = head;
            return Ok(Some(&self.piece));
        }
        if self.done == self.count {
            self.rest.end()?;
            return Ok(None);
        }
        if self.done > 0 {
            self.piece.push(b',');
        }
        for _ in 0..self.edges(self.done) {
            self.piece.push(b'{');
        }
        let length = self.rest.i32()?;
        if length == -1 {
            if !self.may_have_nulls {
                return Err("is an array with a NULL, and says that it has none".to_owned());
            }
            self.piece.extend_from_slice(b"NULL");
        } else {
            let length = usize::try_from(length).map_err(|_| "has an element of negative length".to_owned())?;
            let bytes = self.rest.bytes(length)?;
            self.plain.clear();
            self.element.write(bytes, self.version, &mut self.plain)?;
            quote(&self.plain, &mut self.piece);
        }
        self.done += 1;
        for _ in 0..self.edges(self.done) {
            self.piece.push(b'}');
        }
        Ok(Some(&self.piece))
    }

    /// How many dimensions begin before this element; as many end after the one before it.
    fn edges(&self, number: u64) -> usize {
        let mut span = 1;
        let is_edge = |size: &&u64| {
            span *= **size;
            number.is_multiple_of(span)
        };
        self.sizes.iter().rev().take_while(is_edge).count()
    }
}

/// Lower bound and size of each dimension, and whether there may be NULLs.
fn head(element: Scalar, field: &mut Field<'_>) -> Checked<(Vec<(i64, i64)>, bool)> {
    let dimensions = field.i32()?;
    if !(0..=MOST_DIMENSIONS).contains(&dimensions) {
        return Err(format!("is an array of {dimensions} dimensions"));
    }
    let nulls = field.i32()?;
    if !(0..=1).contains(&nulls) {
        return Err("is an array with flags that are not known".to_owned());
    }
    let oid = field.u32()?;
    if !element.has_oid(oid) {
        return Err(format!("is an array of elements of another type (OID {oid})"));
    }
    let mut bounds = Vec::new();
    for _ in 0..dimensions {
        let (size, lower) = (i64::from(field.i32()?), i64::from(field.i32()?));
        // An empty `int2vector` has a dimension of none, and stays so when it is cast to an array.
        if size < 0 || lower + size - 1 > i64::from(i32::MAX) {
            return Err(format!("is an array with a dimension of {size} elements from {lower} on"));
        }
        bounds.push((lower, size));
    }
    Ok((bounds, nulls == 1))
}
