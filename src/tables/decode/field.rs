//! The bytes of one value, taken from their begin; what is not there or left over is named, never read past.

/// Why a value is not one; as the end of a sentence.
pub(super) type Checked<T> = Result<T, String>;

/// What is left of a value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field<'a>(pub(super) &'a [u8]);

impl<'a> Field<'a> {
    /// So many bytes.
    pub(super) fn bytes(&mut self, count: usize) -> Checked<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("is too short for its type")?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Checked<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or("is too short for its type")?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Checked<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn i16(&mut self) -> Checked<i16> {
        self.array().map(i16::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Checked<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn i32(&mut self) -> Checked<i32> {
        self.array().map(i32::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Checked<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn i64(&mut self) -> Checked<i64> {
        self.array().map(i64::from_be_bytes)
    }

    pub(super) fn f32(&mut self) -> Checked<f32> {
        self.array().map(f32::from_be_bytes)
    }

    pub(super) fn f64(&mut self) -> Checked<f64> {
        self.array().map(f64::from_be_bytes)
    }

    /// All that is left.
    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// There must be nothing left.
    pub(super) fn end(self) -> Checked<()> {
        if self.0.is_empty() { Ok(()) } else { Err("is too long for its type".to_owned()) }
    }
}
