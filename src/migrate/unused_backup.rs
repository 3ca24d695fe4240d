//! The backup of a run whose application could not begin: the next run needs no other one while nothing was written since.
//! A service manager starts the service anew every few seconds, and each start would take one, until the disk is full.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use crate::backup::{Taken, session};
use crate::bounded;
use crate::env::Env;
use crate::ledger::{HexId, Ledger};
use crate::tables::snapshot;

/// In the state directory.
const FILE: &str = "migration-backup.json";

/// The longest file of this kind, in bytes.
const LONGEST: u64 = 64 * 1024;

/// A backup, and the moment that it is of.
#[derive(Debug)]
pub(super) struct UnusedBackup {
    id: HexId,
    moment: Moment,
}

/// Two equal moments are of equal rows.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Moment {
    cluster: String,
    database: String,
    transactions: String,
}

/// The file.
#[derive(Serialize, Deserialize)]
struct Note<M> {
    backup: String,
    moment: M,
}

fn path(env: &Env) -> PathBuf {
    env.settings.state_dir.join(FILE)
}

impl UnusedBackup {
    /// One that was taken just now.
    pub(super) fn of(env: &Env, taken: &Taken) -> Self {
        let moment = Moment {
            cluster: taken.manifest.facts.system_identifier.clone(),
            database: env.connector.database_name().to_owned(),
            transactions: taken.moment.clone(),
        };
        Self { id: taken.noted.facts.id.clone(), moment }
    }

    /// The one that an earlier run left, if it is still listed and of the rows that are there now.
    pub(super) async fn find(env: &Env, client: &Client) -> Option<Self> {
        let text = bounded::file(&path(env), LONGEST).ok()?;
        let note: Note<Moment> = serde_json::from_slice(&text).ok()?;
        let moment = Moment {
            cluster: session::system_identifier(client).await.ok()?,
            database: env.connector.database_name().to_owned(),
            transactions: snapshot::moment(client).await.ok()?,
        };
        if note.moment != moment {
            return None;
        }
        let known = Ledger::open(&env.settings.state_dir).and_then(|ledger| ledger.list()).ok()?;
        let id = known.into_iter().map(|snapshot| snapshot.facts.id).find(|id| id.as_str() == note.backup)?;
        Some(Self { id, moment })
    }

    /// Its id.
    pub(super) fn id(&self) -> &HexId {
        &self.id
    }

    /// Leaves it to the next run. Where that cannot be written, another one is taken, which costs room alone.
    pub(super) fn note(&self, env: &Env) {
        let note = Note { backup: self.id.as_str().to_owned(), moment: &self.moment };
        if let Ok(bytes) = serde_json::to_vec(&note) {
            let _ = std::fs::write(path(env), bytes);
        }
    }
}
