//! The ingress over real sockets on loopback: what clients send byte by byte, and backends that behave badly.

mod away;
mod balance;
mod hostile;
mod life;
mod pass;
mod site;
