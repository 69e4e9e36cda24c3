//! Compiles the `.proto` files with `protox`, so that no `protoc` has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=narvana");
    let files = protox::compile(
        ["narvana/v1/raft.proto", "narvana/v1/forward.proto", "narvana/v1/join.proto", "narvana/v1/artifact.proto"],
        ["."],
    )?;
    // Entries and chunks are passed on without copying them.
    tonic_prost_build::configure().bytes(".").compile_fds(files)?;
    Ok(())
}
