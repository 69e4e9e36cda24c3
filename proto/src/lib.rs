//! Generated types of the protocol between nodes. Nothing is written by hand here;
//! conversions to the model live in the program's `rpc` module.

/// Version 1 of the protocol.
#[expect(missing_docs, reason = "generated code; the .proto files carry the comments")]
pub mod v1 {
    tonic::include_proto!("narvana.v1");
}
