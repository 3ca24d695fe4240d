//! On real repositories in temporary directories.

mod damage;
mod killed;
mod opening;
mod passwords;
mod pruning;
mod restic;
mod storing;
