//! Restores, each of the newest backup of its kind.

use std::fs::File;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};

use crate::common::{self, Measured, PEER, Sample};
use crate::peers::DIRECTORY;
use crate::report::{OUR_RESTORE, PG_RESTORE, PSQL};
use crate::scene::{LIVE, Scene};
use crate::support::Site;

/// Ours goes over the live database; the peers load what that holds into an empty one.
pub fn measure(scene: &Scene, site: &Site, rounds: u32) -> Result<Vec<Measured>> {
    let (file, directory) = (scene.path("live.sql"), scene.path(DIRECTORY));
    // The database has changed since the directory was written.
    std::fs::remove_dir_all(&directory)?;
    common::time(scene.tool("pg_dump").args(["-d", LIVE, "-f"]).arg(&file))?;
    common::time(scene.tool("pg_dump").args(["-d", LIVE, "-Fd", "-j2", "--compress=zstd", "-f"]).arg(&directory))?;
    let mut measured = Measured::none_yet([OUR_RESTORE, PG_RESTORE, PSQL]);
    for number in 0..rounds {
        common::round(number, &mut measured, |at| {
            // Something for ours to bring back.
            scene.query(LIVE, "DELETE FROM updates; UPDATE cars SET name = 'changed'");
            scene.settle();
            match at {
                0 => ours(scene, site),
                1 => into_empty(scene, scene.tool("pg_restore").args(["-j2", "-d", PEER]).arg(&directory)),
                _ => {
                    let mut psql = scene.tool("psql");
                    psql.args(["-X", "-q", "-d", PEER]).stdin(File::open(&file)?).stdout(Stdio::null());
                    into_empty(scene, &mut psql)
                }
            }
        })?;
    }
    Ok(measured)
}

fn into_empty(scene: &Scene, command: &mut Command) -> Result<Sample> {
    common::into_empty(|database, sql| scene.query(database, sql), LIVE, command)
}

fn ours(scene: &Scene, site: &Site) -> Result<Sample> {
    let positions = || scene.query(LIVE, "SELECT count(*) || ' ' || sum(elevation) FROM positions");
    let before = positions();
    let arguments = ["latest", "--yes", "--no-safety-backup", "--json"];
    let (sample, _) = common::watch(|| site.command("teslamate-restore").args(&arguments).spawn())?;
    let is_back =
        "SELECT (SELECT count(*) FROM cars WHERE name = 'changed') = 0 AND (SELECT count(*) FROM updates) > 0";
    ensure!(positions() == before && scene.query(LIVE, is_back) == "t", "the restore did not bring back every row");
    Ok(sample)
}
