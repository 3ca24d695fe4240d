//! The service that uses the database, and the service manager that runs us.

pub mod group;
pub mod notify;
pub mod shown;
pub mod unit;

pub use shown::State;
pub use unit::Unit;
