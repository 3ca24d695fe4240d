//! Putting a drive or a charge of a backup back into the live database: `docs/restore.md`, "One drive or charge back".
//!
//! The rows come by COPY into temporary tables (`staged.rs`), so that the server reads them as it wrote them. What is
//! missing of them in the live database is put there in one transaction (`write.rs`), and read back. Rows that are there
//! already stay as they are; an id that belongs to another row by now is refused. A file (`file.rs`) says what was put
//! there, and undoing takes exactly that away (`undo.rs`).

mod file;
mod live;
mod staged;
mod tables;
mod undo;
mod write;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use self::staged::Staged;
use self::staged::temporary;
use self::tables::TABLES;
pub use self::undo::{Undone, run as undo};
use super::Record;
use super::ids::distinct;
use super::rows::Rows;
use super::session::{self, Explain, Session, Work, begin};
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::restore::stored::Stored;

/// The records that are wanted, each once.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Ids of drives.
    pub drives: Vec<i32>,
    /// Ids of charges.
    pub charges: Vec<i32>,
}

impl Wanted {
    /// Of what a person typed.
    #[must_use]
    pub fn new(drives: &[i32], charges: &[i32]) -> Self {
        Self { drives: distinct(drives), charges: distinct(charges) }
    }

    /// Each kind with its ids.
    fn each(&self) -> [(Record, &[i32]); 2] {
        [(Record::Drive, &self.drives), (Record::Charge, &self.charges)]
    }
}

/// A record as it is in the backup.
#[derive(Clone, Debug)]
pub struct Found {
    /// Drive or charge.
    pub record: Record,
    /// Its id.
    pub id: i32,
    /// Its car.
    pub car_id: Option<String>,
    /// Its start, UTC.
    pub start_date: Option<String>,
    /// It was not finished when the backup was taken.
    pub is_open: bool,
}

/// Rows that are put back, or would be.
#[derive(Clone, Debug, Default)]
pub struct Outlook {
    /// The records.
    pub records: Vec<Found>,
    /// Rows by table, without those that are there already.
    pub rows: BTreeMap<&'static str, u64>,
    /// Positions that are there and get their drive again.
    pub linked: u64,
}

/// The live database, with the wanted rows of a backup beside it.
pub struct Back<'a> {
    env: &'a Env,
    session: Session,
    staged: Staged,
    backup: String,
    wanted: Wanted,
}

impl<'a> Back<'a> {
    /// Copies the wanted rows of the backup into temporary tables. Nothing of the live database changes.
    ///
    /// # Errors
    /// [`Kind::Refused`] if the backup has no such record, or if a table has not the columns any more that it had.
    pub async fn stage(env: &'a Env, stored: &Stored, wanted: Wanted) -> Result<Self> {
        let session = Session::open(env).await?;
        let staged = env.interrupt.guard(Box::pin(Staged::load(env, &session.client, stored, &wanted))).await?;
        Ok(Self { env, session, staged, backup: stored.noted.facts.id.as_str().to_owned(), wanted })
    }

    /// Looks what would be put back.
    ///
    /// # Errors
    /// [`Kind::Refused`] if the record is there, or if the id of one of its rows belongs to another row by now.
    pub async fn look(&mut self) -> Result<Outlook> {
        let Self { env, session, wanted, .. } = self;
        let work = begin(&mut session.client, &session.both).await?;
        let outlook = env.interrupt.guard(look(&work, wanted)).await?;
        session::rollback(work).await;
        Ok(outlook)
    }

    /// Puts it back, and returns the file for undoing.
    ///
    /// # Errors
    /// Those of [`Back::look`], again; [`Kind::Verify`] if the rows would not be what they were.
    pub async fn put(&mut self) -> Result<(Outlook, PathBuf)> {
        let Self { env, session, staged, backup, wanted } = self;
        let origin = file::Origin {
            backup: backup.clone(),
            database: session.database.clone(),
            system_identifier: session.system_identifier.clone(),
        };
        let work = begin(&mut session.client, &session.both).await?;
        let writing = async {
            let outlook = look(&work, wanted).await?;
            let put = write::put(&work, staged, wanted).await?;
            Ok::<_, Error>((outlook, put))
        };
        let (outlook, put) = env.interrupt.guard(writing).await?;
        // Not to be interrupted: between the two, a signal could not be told from a success.
        let saved = file::write(origin, put, &env.settings.state_dir)?;
        match session::commit(work, "the records").await {
            Ok(()) => Ok((outlook, saved.keep())),
            // The rows may be there: then the file is what undoes it.
            Err(error) if error.kind() == Kind::Attention => Err(error.with("undo", saved.keep().display())),
            Err(error) => Err(error),
        }
    }
}

async fn look(work: &Work<'_>, wanted: &Wanted) -> Result<Outlook> {
    let mut outlook = Outlook::default();
    for (record, ids) in wanted.each() {
        for id in ids {
            let query = format!("SELECT * FROM {} WHERE id = {id}", temporary(record.table()));
            let row = Rows::read(work, &query, "the backup's row").await?;
            let value = |column| row.first(column).map(str::to_owned);
            let (car_id, start_date, is_open) = (value("car_id"), value("start_date"), value("end_date").is_none());
            outlook.records.push(Found { record, id: *id, car_id, start_date, is_open });
        }
    }
    refuse_present(work, &outlook.records).await?;
    for table in TABLES {
        live::refuse_taken(work, table).await?;
        let query = format!("SELECT count(*) FROM ({}) missing", live::missing(table));
        let rows: i64 = work.query_one(&query, &[]).await.explain("cannot compare with the backup")?.get(0);
        if rows > 0 {
            outlook.rows.insert(table.name, u64::try_from(rows).unwrap_or(0));
        }
    }
    live::refuse_moved(work, &wanted.drives).await?;
    let query = format!("SELECT count(*) FROM ({}) linked", live::to_link(&wanted.drives));
    let linked: i64 = work.query_one(&query, &[]).await.explain("cannot look at the positions")?.get(0);
    outlook.linked = u64::try_from(linked).unwrap_or(0);
    Ok(outlook)
}

/// A record that is there is not put back, whatever it looks like now.
async fn refuse_present(work: &Work<'_>, records: &[Found]) -> Result<()> {
    for Found { record, id, start_date, car_id, .. } in records {
        let query = format!("SELECT * FROM public.{} WHERE id = {id}", record.table());
        let row = Rows::read(work, &query, "the live row").await?;
        if row.rows.is_empty() {
            continue;
        }
        let noun = record.noun();
        let is_same = row.first("start_date") == start_date.as_deref() && row.first("car_id") == car_id.as_deref();
        return Err(if is_same {
            Error::new(Kind::Refused, format!("{noun} {id} is in the live database: there is nothing to put back"))
                .with("state", "nothing was changed")
                .hint(format!("To have it as it was in the backup, delete it first: teslamate-delete-{noun} {id}"))
        } else {
            let started = |date: Option<&str>| date.unwrap_or("at an unknown time").to_owned();
            Error::new(Kind::Refused, format!("the id of {noun} {id} belongs to another {noun} by now"))
                .with("live", format!("started {} UTC", started(row.first("start_date"))))
                .with("backup", format!("started {} UTC", started(start_date.as_deref())))
                .with("state", "nothing was changed")
                .hint("Look at the backup beside the live database: teslamate-restore ID --into NAME")
        });
    }
    Ok(())
}
