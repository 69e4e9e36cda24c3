//! Compiles the `.proto` files with `protox`, so that no `protoc` has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=narvana");
    let names = ["raft", "forward", "join", "artifact", "tunnel", "logs", "exec", "hello"];
    let files = protox::compile(names.map(|name| format!("narvana/v1/{name}.proto")), ["."])?;
    // Entries and chunks are passed on without copying them.
    tonic_prost_build::configure().bytes(".").compile_fds(files)?;
    Ok(())
}
