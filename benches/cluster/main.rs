//! Clusters of three nodes as their users meet them: real processes, real engines, whole machines that die.
//!
//! Run with `cargo bench --bench cluster [ROW…]`; rows: failover handover join idle death scale visitors; all without arguments.
//! Needs root, and what `scripts/setup.sh --tests` installs; failover also Debian's etcd-server.

#[path = "../etcd/mod.rs"]
mod etcd;
#[path = "../../tests/real/harness/mod.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod harness;
#[path = "../measure/mod.rs"]
#[expect(dead_code, reason = "for benchmarks of writers")]
mod measure;
#[path = "../row/mod.rs"]
mod row;

mod client;
mod death;
mod failover;
mod figures;
mod handover;
mod join;
mod scale;
mod visitors;

use harness::Harness;
use harness::node::Node;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // The clients of this benchmark speak plain HTTP, but want to know.
    let _is_first = rustls::crypto::ring::default_provider().install_default();
    // Cargo itself passes flags.
    let mut rows: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if rows.is_empty() {
        rows = ["failover", "handover", "join", "idle", "death", "scale", "visitors"].map(str::to_owned).to_vec();
    }
    for row in rows {
        match row.as_str() {
            "failover" => failover::row().await?,
            "handover" => handover::row().await?,
            "join" => join::row().await?,
            "idle" => join::idle().await?,
            "death" => death::rows().await?,
            "scale" => scale::row().await?,
            "visitors" => visitors::rows().await?,
            unknown => anyhow::bail!("there is no row {unknown}: see the top of benches/cluster/main.rs"),
        }
    }
    Ok(())
}

/// Three voters on one engine.
fn three(harness: &Harness) -> [Node; 3] {
    let first = Node::registered(harness.address());
    let second = first.joined("second");
    let third = first.joined("third");
    [first, second, third]
}
