//! Rows of a COPY, handed to the sessions that load them.

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc};

use super::{Executor, out_of_step};
use crate::error::Result;
use crate::restore::load::session::{Rows, Session};
use crate::restore::load::stream::{Item, Piece, Statement};

/// From this many bytes on, a table is loaded by every session that is free. A smaller one keeps the order of its rows.
const BIG: usize = 16 << 20;

impl Executor<'_> {
    /// Loads the rows of a COPY. The last of them may still be on their way when it returns.
    pub(super) async fn copy(&mut self, statement: Statement, items: &mut mpsc::Receiver<Item>) -> Result<()> {
        self.check_authorization(&statement)?;
        self.enter_section(&statement).await?;
        self.of_rows = self.settings.clone();
        self.end_transaction().await?;
        if !self.locked.is_empty() || !self.waiting.is_empty() {
            self.drain().await?;
        }
        let statement = Arc::new(statement);
        let (sender, receiver) = mpsc::channel(1);
        let rows: Rows = Arc::new(Mutex::new(receiver));
        let session = self.next_session().await?;
        self.spawn_copy(session, &statement, rows.clone());
        let mut bytes = 0;
        while let Some(item) = items.recv().await {
            let piece = match item {
                Item::Piece(piece) => piece,
                Item::EndOfRows => return Ok(()),
                Item::Statement(_) | Item::Copy(_) => return Err(out_of_step()),
            };
            self.reap()?;
            bytes += piece.bytes.len();
            // With options, a row need not be a line.
            let may_be_shared = bytes >= BIG && statement.text.ends_with(b" FROM stdin;");
            self.hand_over(piece, &sender, may_be_shared, &statement, &rows).await?;
        }
        // The reader says why there are no more.
        Err(out_of_step())
    }

    async fn hand_over(
        &mut self,
        piece: Piece,
        sender: &mpsc::Sender<Piece>,
        may_be_shared: bool,
        statement: &Arc<Statement>,
        rows: &Rows,
    ) -> Result<()> {
        let piece = match sender.try_send(piece) {
            Ok(()) => return Ok(()),
            Err(error) => error.into_inner(),
        };
        if may_be_shared && let Some(session) = self.free_session().await? {
            self.spawn_copy(session, statement, rows.clone());
        }
        loop {
            tokio::select! {
                permit = sender.reserve() => {
                    permit.map_err(|_| out_of_step())?.send(piece);
                    return Ok(());
                }
                joined = self.running.join_next_with_id() => self.joined(joined)?,
            }
        }
    }

    fn spawn_copy(&mut self, mut session: Session, statement: &Arc<Statement>, rows: Rows) {
        let (statement, settings) = (statement.clone(), self.settings.clone());
        self.running.spawn(async move {
            session.copy(&statement, &rows, &settings).await?;
            Ok(session)
        });
    }
}
