//! On real repositories in temporary directories.

mod damage;
mod killed;
mod opening;
mod restic;
mod storing;
