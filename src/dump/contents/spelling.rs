//! Names of a dump in another encoding than UTF-8, converted by the server.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tokio_postgres::Client;

use super::{Contents, Extension, Need, Partition, Right, TableName};
use crate::database::Properties;
use crate::database::connect::{QueryContext, chain};
use crate::dump::rules::RoleUse;
use crate::dump::scan::{Charset, bytes_of, runs, spelled};
use crate::dump::text::Flaw;
use crate::error::{Error, Kind, Result};

/// Runs of characters that stand for bytes, each with its text.
#[derive(Clone, Debug, Default)]
pub struct Spelling {
    charset: Charset,
    texts: Runs,
}

impl Spelling {
    /// A text with the characters that the server has converted.
    #[must_use]
    pub fn text(&self, text: &str) -> String {
        if !self.charset.is_foreign() {
            return text.to_owned();
        }
        spelled(text, &mut |run| self.texts.get(run).cloned().unwrap_or_else(|| lossy(run)))
    }

    /// The name of a table in this form.
    #[must_use]
    pub fn table(&self, table: TableName) -> TableName {
        table.spell(&mut |text| self.text(text))
    }

    /// Bytes that are no statement: a list of contents.
    #[must_use]
    pub fn decode(&self, bytes: &[u8]) -> String {
        self.text(&self.charset.decode(bytes))
    }
}

/// Characters that cannot be converted, for people.
fn lossy(run: &str) -> String {
    String::from_utf8_lossy(&bytes_of(run)).into_owned()
}

impl Contents {
    /// Lets the server convert the names of a dump that is in another encoding.
    ///
    /// # Errors
    /// [`Kind::Refused`] if it cannot convert the name of a table: its rows could not be counted.
    pub async fn convert(&mut self, client: &Client) -> Result<()> {
        let Some(encoding) = self.encoding.clone() else { return Ok(()) };
        self.spelling.charset = Charset::of(&encoding);
        if !self.spelling.charset.is_foreign() {
            return Ok(());
        }
        let mut found = BTreeSet::new();
        self.spell(&mut |text| {
            found.extend(runs(text).map(str::to_owned));
            text.to_owned()
        });
        if found.is_empty() {
            return Ok(());
        }
        let (texts, failed) = converted(client, &encoding, found.into_iter().collect()).await?;
        self.spelling.texts = texts;
        self.refuse_unconverted(&encoding, &failed)?;
        let spelling = self.spelling.clone();
        self.spell(&mut |text| spelling.text(text));
        Ok(())
    }

    fn refuse_unconverted(&self, encoding: &str, failed: &HashMap<String, String>) -> Result<()> {
        let failure = |table: &TableName| {
            [&table.schema, &table.name].into_iter().flat_map(|name| runs(name)).find_map(|run| failed.get(run))
        };
        let tables: BTreeSet<&TableName> = self.tables().filter(|table| failure(table).is_some()).collect();
        let Some(cause) = tables.first().and_then(|table| failure(table)) else { return Ok(()) };
        let names: Vec<String> = tables.iter().map(|table| self.spelling.text(&table.to_string())).collect();
        Err(Error::new(Kind::Refused, "the server cannot convert the names of tables in the dump to UTF-8")
            .with("encoding", encoding)
            .with("tables", names.join("\n"))
            .with("cause", cause)
            .with("state", "the live database was not touched")
            .hint("Make the dump again with pg_dump --encoding=UTF8."))
    }

    /// Replaces every text that came out of the dump.
    fn spell(&mut self, spell: Spell<'_>) {
        macro_rules! replace {
            ($($field:ident)*) => { $(self.$field = std::mem::take(&mut self.$field).spell(spell);)* };
        }
        replace!(created views materialized partitions children rows extensions roles tablespaces subscriptions schemas public_owner
                 objects used needs made reserved database untrusted as_server);
    }
}

/// Runs, each with its text or with the server's words.
type Runs = HashMap<String, String>;

/// Texts that the server converts runs to, and the runs that it cannot convert, each with the server's error.
async fn converted(client: &Client, encoding: &str, runs: Vec<String>) -> Result<(Runs, Runs)> {
    let sql = "SELECT pg_catalog.convert(run, $2::text::name, 'UTF8') \
               FROM unnest($1::bytea[]) WITH ORDINALITY AS u (run, place) ORDER BY place";
    let text = |row: &tokio_postgres::Row| String::from_utf8_lossy(row.get::<_, &[u8]>(0)).into_owned();
    let bytes: Vec<Vec<u8>> = runs.iter().map(|run| bytes_of(run)).collect();
    if let Ok(rows) = client.query(sql, &[&bytes, &encoding]).await {
        return Ok((runs.into_iter().zip(rows.iter().map(text)).collect(), Runs::new()));
    }
    let (mut texts, mut failed) = (Runs::new(), Runs::new());
    for (run, bytes) in runs.into_iter().zip(bytes) {
        match client.query_one(sql, &[&[bytes].as_slice(), &encoding]).await {
            Ok(row) => drop(texts.insert(run, text(&row))),
            Err(cause) if cause.as_db_error().is_some() => drop(failed.insert(run, chain(&cause))),
            Err(cause) => return Err(cause).query_context("cannot convert the names of the dump"),
        }
    }
    Ok((texts, failed))
}

type Spell<'a> = &'a mut dyn FnMut(&str) -> String;

/// A value whose texts can be replaced.
trait Spelled: Sized {
    /// Replaces them.
    fn spell(self, spell: Spell<'_>) -> Self;
}

impl Spelled for String {
    fn spell(self, spell: Spell<'_>) -> Self {
        spell(&self)
    }
}

impl Spelled for RoleUse {
    fn spell(self, _: Spell<'_>) -> Self {
        self
    }
}

impl<T: Spelled> Spelled for Option<T> {
    fn spell(self, spell: Spell<'_>) -> Self {
        self.map(|value| value.spell(spell))
    }
}

impl<T: Spelled> Spelled for Vec<T> {
    fn spell(self, spell: Spell<'_>) -> Self {
        self.into_iter().map(|value| value.spell(spell)).collect()
    }
}

impl<T: Spelled + Ord> Spelled for BTreeSet<T> {
    fn spell(self, spell: Spell<'_>) -> Self {
        self.into_iter().map(|value| value.spell(spell)).collect()
    }
}

impl Spelled for BTreeMap<TableName, u64> {
    fn spell(self, spell: Spell<'_>) -> Self {
        self.into_iter().map(|(name, rows)| (name.spell(spell), rows)).collect()
    }
}

impl<A: Spelled, B: Spelled> Spelled for (A, B) {
    fn spell(self, spell: Spell<'_>) -> Self {
        (self.0.spell(spell), self.1.spell(spell))
    }
}

impl Spelled for TableName {
    fn spell(self, spell: Spell<'_>) -> Self {
        Self { schema: spell(&self.schema), name: spell(&self.name) }
    }
}

impl Spelled for Partition {
    fn spell(self, spell: Spell<'_>) -> Self {
        Self { parent: self.parent.spell(spell), child: self.child.spell(spell), bounds: spell(&self.bounds) }
    }
}

impl Spelled for Extension {
    fn spell(self, spell: Spell<'_>) -> Self {
        Self { name: spell(&self.name), schema: self.schema.spell(spell) }
    }
}

impl Spelled for Need {
    fn spell(self, spell: Spell<'_>) -> Self {
        match self {
            Self::Type(name) => Self::Type(name.spell(spell)),
            Self::Table(name) => Self::Table(name.spell(spell)),
            Self::Function(name) => Self::Function(name.spell(spell)),
            Self::Language(name) => Self::Language(spell(&name)),
            Self::Wrapper(name) => Self::Wrapper(spell(&name)),
        }
    }
}

impl Spelled for Right {
    fn spell(self, spell: Spell<'_>) -> Self {
        match self {
            Self::Superuser => Self::Superuser,
            Self::Setting(name) => Self::Setting(spell(&name)),
        }
    }
}

impl Spelled for Flaw {
    fn spell(self, spell: Spell<'_>) -> Self {
        Self { what: spell(&self.what), ..self }
    }
}

impl Spelled for Properties {
    fn spell(self, spell: Spell<'_>) -> Self {
        self.with_texts(spell)
    }
}
