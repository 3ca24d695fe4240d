//! The formats of a dump file: by name when it is written, by content when it is read.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

/// How a plain dump is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip (RFC 1952), with its CRC.
    Gzip,
    /// zstd (RFC 8878); what we write carries a checksum in each frame.
    Zstd,
}

/// What a dump file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// SQL text for psql.
    Plain(Compression),
    /// `pg_dump -Fc`.
    Custom,
    /// `pg_dump -Fd`; read only.
    Directory,
    /// `pg_dump -Ft`; read only.
    Tar,
}

impl Format {
    /// The format that a file of this name is written in: `.sql.gz`, `.sql.zst`, `.dump`; anything else is plain SQL.
    #[must_use]
    pub fn of_name(path: &Path) -> Self {
        let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
        // In lower case already.
        #[allow(clippy::case_sensitive_file_extension_comparisons)]
        if name.ends_with(".dump") {
            Self::Custom
        } else if name.ends_with(".sql.gz") {
            Self::Plain(Compression::Gzip)
        } else if name.ends_with(".sql.zst") {
            Self::Plain(Compression::Zstd)
        } else {
            Self::Plain(Compression::None)
        }
    }

    /// The format that a file which begins like this is in.
    #[must_use]
    pub fn of_content(head: &[u8]) -> Self {
        if head.starts_with(b"PGDMP") {
            Self::Custom
        } else if head.starts_with(b"\x1f\x8b") {
            Self::Plain(Compression::Gzip)
        } else if head.starts_with(b"\x28\xb5\x2f\xfd") {
            Self::Plain(Compression::Zstd)
        } else if head.get(257..262) == Some(b"ustar") || head.starts_with(b"toc.dat\0") {
            Self::Tar
        } else {
            Self::Plain(Compression::None)
        }
    }

    /// Its name in messages and JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Plain(Compression::None) => "plain",
            Self::Plain(Compression::Gzip) => "plain, gzip",
            Self::Plain(Compression::Zstd) => "plain, zstd",
            Self::Custom => "custom",
            Self::Directory => "directory",
            Self::Tar => "tar",
        }
    }
}

/// The program that unpacks a file of another compression, by how the file begins.
#[must_use]
pub fn unpacked_by(head: &[u8]) -> Option<&'static str> {
    const PROGRAMS: [(&[u8], &str); 6] = [
        (b"\xfd7zXZ\0", "xz -dc"),
        (b"BZh", "bzip2 -dc"),
        (b"PK\x03\x04", "unzip -p"),
        (b"\x04\x22\x4d\x18", "lz4 -dc"),
        (b"7z\xbc\xaf\x27\x1c", "7z x -so"),
        (b"LZIP", "lzip -dc"),
    ];
    PROGRAMS.iter().find(|(begin, _)| head.starts_with(begin)).map(|(_, program)| *program)
}

/// Whether the first frame of a zstd file carries a checksum: the third bit of the frame header descriptor.
#[must_use]
pub fn has_checksum(head: &[u8]) -> bool {
    head.get(4).is_some_and(|descriptor| descriptor & 0b100 != 0)
}

/// Compresses on the way to a writer; [`Compressor::finish`] writes the end of the stream.
pub enum Compressor<W: Write> {
    /// Not at all.
    None(W),
    /// gzip.
    Gzip(GzEncoder<W>),
    /// zstd.
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

impl<W: Write> Compressor<W> {
    /// Compresses so; `level` is zstd's.
    pub fn new(compression: Compression, level: u32, writer: W) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::None(writer),
            Compression::Gzip => Self::Gzip(GzEncoder::new(writer, flate2::Compression::default())),
            Compression::Zstd => {
                let level = i32::try_from(level).unwrap_or(3);
                let mut encoder = zstd::stream::write::Encoder::new(writer, level)?;
                // Without it, 84 of 100 flipped bits decompress to other data without an error.
                encoder.include_checksum(true)?;
                Self::Zstd(encoder)
            }
        })
    }

    /// Writes the end of the stream and gives the writer back.
    pub fn finish(self) -> io::Result<W> {
        match self {
            Self::None(mut writer) => writer.flush().map(|()| writer),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::None(writer) => writer.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::None(writer) => writer.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}

/// Reads a compressed file as the text that is in it. Every checksum there is, is checked.
pub fn decompress<'a>(compression: Compression, file: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    Ok(match compression {
        Compression::None => Box::new(file),
        Compression::Gzip => Box::new(MultiGzDecoder::new(file)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::new(file)?),
    })
}

/// The first bytes of a file, as many as [`Format::of_content`] looks at.
pub fn head(file: &File) -> io::Result<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let mut head = vec![0; 512];
    let mut length = 0;
    while length < head.len() {
        match file.read_at(&mut head[length..], length as u64)? {
            0 => break,
            count => length += count,
        }
    }
    head.truncate(length);
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_choose_the_format_and_habits_stay_plain() {
        let of = |name: &str| Format::of_name(Path::new(name));
        assert_eq!(of("a.sql.gz"), Format::Plain(Compression::Gzip));
        assert_eq!(of("a.sql.zst"), Format::Plain(Compression::Zstd));
        assert_eq!(of("a.DUMP"), Format::Custom);
        for plain in ["teslamate.bck", "a.sql", "a", "a.gz"] {
            assert_eq!(of(plain), Format::Plain(Compression::None), "{plain}");
        }
    }

    #[test]
    fn zstd_that_we_write_carries_a_checksum() {
        let mut compressor = Compressor::new(Compression::Zstd, 3, Vec::new()).unwrap();
        compressor.write_all(b"hello").unwrap();
        assert!(has_checksum(&compressor.finish().unwrap()));
        assert!(!has_checksum(&zstd::encode_all(&b"hello"[..], 3).unwrap()));
    }
}
