//! The rows of the backup on their way into the tables, and what constraints say about them.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::UNTOUCHED;
use super::incoming::{Incoming, numbers};
use crate::database::connect::{QueryContext, chain};
use crate::error::{Error, Kind, Result};
use crate::progress::Meter;

/// Puts the rows in. A CHECK may look at another table, so what one table refuses is tried again after the others.
pub(super) async fn insert(client: &Client, staged: &[Incoming], meter: &Meter) -> Result<()> {
    let mut waiting: Vec<&Incoming> = staged.iter().collect();
    while !waiting.is_empty() {
        let before = waiting.len();
        let (mut refused, mut causes) = (Vec::new(), Vec::new());
        for incoming in waiting {
            meter.now(&incoming.name);
            let sql = format!("SAVEPOINT rows; {}", incoming.insert_statement());
            let Err(cause) = client.batch_execute(&sql).await else { continue };
            if !cause.code().is_some_and(|code| code.code().starts_with("23")) {
                return Err(refusal(&incoming.name, &cause));
            }
            client.batch_execute("ROLLBACK TO SAVEPOINT rows").await.query_context("cannot go on")?;
            refused.push(incoming);
            causes.push((incoming.name.as_str(), chain(&cause)));
        }
        if refused.len() == before {
            return Err(all_do_not_fit(&causes));
        }
        waiting = refused;
    }
    Ok(())
}

fn do_not_fit(name: &str) -> Error {
    Error::new(Kind::Refused, format!("the rows of the backup do not fit table {name} as it is now"))
        .with("state", UNTOUCHED)
        .hint("Load the backup beside the live database with --into NAME, and take the rows from there.")
}

/// Names all tables whose constraints refuse rows.
fn all_do_not_fit(causes: &[(&str, String)]) -> Error {
    if let [(name, cause)] = causes {
        return do_not_fit(name).with("cause", cause);
    }
    let lines: Vec<String> = causes.iter().map(|(name, cause)| format!("{name}: {cause}")).collect();
    Error::new(Kind::Refused, format!("the rows of the backup do not fit {} tables as they are now", lines.len()))
        .with("tables", lines.join("\n"))
        .with("state", UNTOUCHED)
        .hint("Load the backup beside the live database with --into NAME, and take the rows from there.")
}

/// The server's words, by what they mean.
fn refusal(name: &str, cause: &tokio_postgres::Error) -> Error {
    let code = cause.code().map_or("", SqlState::code);
    let (kind, what) = if code == SqlState::DISK_FULL.code() {
        (Kind::Store, format!("the server ran out of space while it wrote the rows of {name}"))
    } else if code.is_empty() {
        (Kind::Source, format!("the server ended the connection while it wrote the rows of {name}"))
    } else {
        (Kind::Verify, format!("the server did not take the rows of {name}"))
    };
    Error::new(kind, what)
        .with("cause", chain(cause))
        .with("state", UNTOUCHED)
        .hint("Load the backup beside the live database with --into NAME, and take the rows from there.")
}

/// Compares the number of rows with the manifest's.
pub(super) async fn count(client: &Client, staged: &[Incoming]) -> Result<()> {
    let queries: Vec<String> = staged.iter().map(Incoming::count).collect();
    let counted = numbers(client, &queries, "cannot count the rows").await?;
    for (incoming, rows) in staged.iter().zip(counted) {
        if rows < incoming.rows && !incoming.key.is_empty() {
            return Err(do_not_fit(&incoming.name)
                .with("primary key", &incoming.key)
                .with("cause", format!("{} rows of the backup have the key of another one", incoming.rows - rows)));
        }
        if rows != incoming.rows {
            return Err(Error::new(Kind::Verify, format!("{} did not get the rows that it had", incoming.name))
                .with("rows", format!("{rows}, the manifest says {}", incoming.rows))
                .with("state", UNTOUCHED));
        }
    }
    Ok(())
}
