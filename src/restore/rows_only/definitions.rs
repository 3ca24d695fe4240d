//! The definitions of the backup: partitions, views, and the values of sequences.

use tokio_postgres::Client;

use crate::database::connect::server_version;
use crate::database::tools::Tools;
use crate::dump::Contents;
use crate::dump::judge::judge;
use crate::dump::source::Source;
use crate::env::Env;
use crate::error::Result;
use crate::progress::Meter;

/// Reads them.
pub(super) async fn read(client: &Client, env: &Env, definitions: &Source) -> Result<Contents> {
    let server = server_version(client).await?;
    let tools = Tools::find(&env.connector, env.settings.database.tools.as_deref(), server).await?;
    let meter = Meter::new("reading the definitions of the backup");
    let judged = env.interrupt.guard(judge(definitions, &tools, &meter));
    Ok(env.reporter.show(&meter, judged).await?.contents)
}
