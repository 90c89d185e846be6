//! Compiles the subset of the CRI that the kubelet speaks, without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=runtime/cri.proto");
    let files = protox::compile(["runtime/cri.proto"], ["."])?;
    tonic_prost_build::configure().build_server(false).build_transport(false).compile_fds(files)?;
    Ok(())
}
