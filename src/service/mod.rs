//! The service that uses the database, and the service manager that runs us.

pub mod notify;
pub mod unit;

pub use unit::{State, Unit};
