//! Encoding and locale of a database.

use super::Properties;
use crate::error::{Error, Kind, Result};

impl Properties {
    /// Chooses another locale: `libc:NAME`, `icu:NAME`, `builtin:NAME`; without a provider it is libc's.
    ///
    /// # Errors
    /// [`Kind::Usage`] if it is none of these.
    pub fn set_locale(&mut self, spec: &str) -> Result<()> {
        let (provider, locale) = spec.split_once(':').unwrap_or(("libc", spec));
        let letter = match provider {
            "libc" => "c",
            "icu" => "i",
            "builtin" => "b",
            _ => "",
        };
        if letter.is_empty() || locale.is_empty() {
            let message = format!("--locale does not name a locale: `{spec}`");
            return Err(Error::new(Kind::Usage, message).hint(
                "Write `libc:de_DE.UTF-8`, `icu:de-DE`, `builtin:C.UTF-8`, or a name of libc alone, as `C.UTF-8`.",
            ));
        }
        for column in ["datlocale", "daticurules"] {
            self.columns.remove(column);
        }
        self.set("datlocprovider", letter);
        if letter == "c" {
            self.set("datcollate", locale);
            self.set("datctype", locale);
        } else {
            // What libc is still asked for has to exist everywhere.
            self.set("datcollate", "C");
            self.set("datctype", "C");
            self.set("datlocale", locale);
        }
        self.collation_version = None;
        Ok(())
    }

    /// Encoding and locale for people: `UTF8, ICU "de-DE"`.
    #[must_use]
    pub fn shown_locale(&self) -> String {
        let encoding = self.get("encoding").unwrap_or("UTF8");
        let (collate, ctype) = (self.get("datcollate").unwrap_or_default(), self.get("datctype").unwrap_or_default());
        let rules = if self.get("daticurules").is_some() { " with rules" } else { "" };
        let locale = self.get("datlocale").unwrap_or_default();
        match self.get("datlocprovider") {
            Some("i") => format!("{encoding}, ICU \"{locale}\"{rules}"),
            Some("b") => format!("{encoding}, builtin \"{locale}\""),
            _ if collate.is_empty() => encoding.to_owned(),
            _ if collate == ctype => format!("{encoding}, libc \"{collate}\""),
            _ => format!("{encoding}, libc \"{collate}\" with character type \"{ctype}\""),
        }
    }

    /// Whether texts are stored and ordered in the same way.
    #[must_use]
    pub fn same_locale(&self, other: &Self) -> bool {
        ["encoding", "datlocprovider", "datlocale", "daticurules"]
            .iter()
            .all(|column| self.get(column) == other.get(column))
            && ["datcollate", "datctype"].iter().all(|column| {
                let plain = |value: Option<&str>| value.map(|value| value.to_lowercase().replace('-', ""));
                plain(self.get(column)) == plain(other.get(column))
            })
    }
}
