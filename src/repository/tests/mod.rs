//! On real repositories in temporary directories.

mod copying;
mod damage;
mod killed;
mod opening;
mod passwords;
mod pruning;
mod restic;
mod storing;
