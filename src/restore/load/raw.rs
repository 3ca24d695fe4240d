//! Statements of unknown encoding (`SQL_ASCII`) that are not UTF-8: the driver takes only UTF-8 for a statement, so such a
//! one goes as a parameter to a function of the session, which executes it.
//!
//! That function would execute more than one statement, so the server first parses the text with a letter in the place of
//! each byte that is not ASCII. For the server's lexer these bytes are letters, too (`ident_start` in `scan.l`).

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

/// Makes the function that executes bytes.
const FUNCTION: &str = "CREATE OR REPLACE FUNCTION pg_temp.glovebox_execute(statement pg_catalog.bytea) \
     RETURNS pg_catalog.void LANGUAGE plpgsql AS \
     $$BEGIN EXECUTE pg_catalog.convert_from(statement, 'SQL_ASCII'); END$$";

/// The COPY into the table that stands in for one whose name is not UTF-8.
pub(super) const COPY: &str = "COPY pg_temp.glovebox_rows FROM stdin";

type Result<T> = std::result::Result<T, tokio_postgres::Error>;

/// Executes one statement.
pub(super) async fn execute(client: &Client, statement: &[u8]) -> Result<()> {
    let readable: String = statement.iter().map(|byte| if byte.is_ascii() { char::from(*byte) } else { 'x' }).collect();
    if let Err(cause) = client.prepare(&readable).await
        && cause.code() == Some(&SqlState::SYNTAX_ERROR)
    {
        return Err(cause);
    }
    run(client, statement).await
}

/// Makes a table with the columns that a COPY names, and returns the COPY into it.
pub(super) async fn begin_copy(client: &Client, copy: &[u8]) -> Result<String> {
    let (table, columns) = parts(copy);
    let columns = if columns.is_empty() { b"*" } else { columns };
    let statement =
        [b"CREATE TEMPORARY TABLE glovebox_rows AS SELECT ", columns, b" FROM ", table, b" WITH NO DATA"].concat();
    run(client, &statement).await?;
    Ok(COPY.to_owned())
}

/// Moves the rows into the table that they are for.
pub(super) async fn end_copy(client: &Client, copy: &[u8]) -> Result<()> {
    let (table, columns) = parts(copy);
    let columns = if columns.is_empty() { Vec::new() } else { [b" (", columns, b")"].concat() };
    let statement =
        [b"INSERT INTO ", table, &columns, b" OVERRIDING SYSTEM VALUE SELECT * FROM pg_temp.glovebox_rows"].concat();
    run(client, &statement).await?;
    client.batch_execute("DROP TABLE pg_temp.glovebox_rows").await
}

async fn run(client: &Client, statement: &[u8]) -> Result<()> {
    client.batch_execute(FUNCTION).await?;
    client.query_one("SELECT pg_temp.glovebox_execute($1)", &[&statement]).await.map(drop)
}

/// The table and the columns of `COPY table (columns) FROM stdin;`, whose form is checked before.
fn parts(copy: &[u8]) -> (&[u8], &[u8]) {
    let inner = copy.strip_prefix(b"COPY ").unwrap_or(copy);
    let end = memchr::memmem::rfind(inner, b" FROM stdin").unwrap_or(inner.len());
    let inner = &inner[..end];
    let Some(columns) = inner.strip_suffix(b")") else { return (inner.trim_ascii(), b"") };
    match memchr::memmem::find(columns, b" (") {
        Some(at) => (columns[..at].trim_ascii(), &columns[at + 2..]),
        None => (inner.trim_ascii(), b""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_taken_apart() {
        assert_eq!(parts(b"COPY public.a (b, c) FROM stdin;"), (&b"public.a"[..], &b"b, c"[..]));
        assert_eq!(parts(b"COPY public.a  FROM stdin;"), (&b"public.a"[..], &b""[..]));
    }
}
