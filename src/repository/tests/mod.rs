//! On real repositories in temporary directories.

mod damage;
mod opening;
mod restic;
mod storing;
