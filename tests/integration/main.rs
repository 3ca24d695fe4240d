//! The binaries against a real PostgreSQL server. One file per subject; `support` starts servers and runs binaries.

mod support;
