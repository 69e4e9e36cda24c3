//! The `narvana` program. It gets its commands with the command line.

fn main() {}
