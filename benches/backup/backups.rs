//! What makes a backup: a tool, and `teslamate-backup` as the first.

use std::fs;

use anyhow::{Result, ensure};

use crate::common::{self, Sample};
use crate::scene::Scene;
use crate::support::Site;
use crate::support::repository::section;

/// Something that backs up.
pub trait Tool {
    fn name(&self) -> &str;

    /// Whether a later backup adds to the first.
    fn adds(&self) -> bool {
        true
    }

    /// Puts a new repository in place of the one that there may be. This is not measured.
    fn renew(&mut self, scene: &Scene) -> Result<()>;

    /// What has to be there before a backup; not measured either.
    fn prepare(&mut self, _scene: &Scene) -> Result<()> {
        Ok(())
    }

    /// Makes a backup and measures it.
    fn back_up(&mut self, scene: &Scene) -> Result<Sample>;

    /// Fails unless it lists this many backups.
    fn is_done(&self, scene: &Scene, backups: u32) -> Result<()>;

    /// The installation of `teslamate-backup`.
    fn site(self: Box<Self>) -> Option<Site> {
        None
    }
}

/// `teslamate-backup`.
pub struct Ours(Option<Site>);

impl Ours {
    pub fn new() -> Self {
        Self(None)
    }

    fn installed(&self) -> &Site {
        self.0.as_ref().expect("renewed")
    }
}

impl Tool for Ours {
    fn name(&self) -> &str {
        super::report::OURS
    }

    fn renew(&mut self, scene: &Scene) -> Result<()> {
        let site = scene.site();
        let config = fs::read_to_string(site.config())?;
        site.write_config(&format!("{config}{}", section(&site)));
        site.run("teslamate-backup", &["init"]).expect(0);
        self.0 = Some(site);
        Ok(())
    }

    fn back_up(&mut self, _scene: &Scene) -> Result<Sample> {
        let site = self.installed();
        let (sample, document) = common::watch(|| site.command("teslamate-backup").arg("--json").spawn())?;
        if let Some(why) = document["read_all"].as_str() {
            eprintln!("everything was read: {why}");
        }
        let number = |name: &str| document[name].as_u64();
        let chunks = number("chunks_read").zip(number("chunks_reused"));
        Ok(Sample { read: number("bytes_read"), bytes: number("bytes_added"), chunks, ..sample })
    }

    fn is_done(&self, _scene: &Scene, backups: u32) -> Result<()> {
        let listed = self.installed().backups().len();
        ensure!(listed == usize::try_from(backups)?, "teslamate-backup lists {listed} backups, not {backups}");
        Ok(())
    }

    fn site(self: Box<Self>) -> Option<Site> {
        self.0
    }
}
