//! Compiles the wire-compatible subset of etcd's v3 API, and gRPC's health protocol, without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=etcd/rpc.proto");
    println!("cargo:rerun-if-changed=etcd/health.proto");
    let files = protox::compile(["rpc.proto", "health.proto"], ["etcd"])?;
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::etcd::fitting::Fitting")
        .compile_fds(files)?;
    Ok(())
}
