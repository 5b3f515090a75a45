//! The one binary: parses the command line and hands over to `cli`.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    converthouse::cli::main(colour)
}
