//! Running programs of the machine and saying clearly what they answered.

use std::ffi::OsStr;
use std::io::Write;
use std::process::{Command, Stdio};

use crate::{Error, Result};

/// What a program printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its standard output.
    pub text: String,
    /// Its standard error.
    pub errors: String,
    /// Whether it exited with 0.
    pub success: bool,
}

/// Runs a program to its end, whatever it answers. An error only when it cannot be started.
pub fn output<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Result<Output> {
    finish(Command::new(program).args(arguments), program, "")
}

/// Runs a program that must succeed; its standard output.
pub(crate) fn run<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Result<String> {
    feed(program, arguments, "")
}

/// Runs a program that must succeed, with a text as its standard input.
pub(crate) fn feed<S: AsRef<OsStr>>(program: &str, arguments: &[S], input: &str) -> Result<String> {
    let done = finish(Command::new(program).args(arguments), program, input)?;
    if done.success {
        return Ok(done.text);
    }
    let words: Vec<_> = arguments.iter().map(|a| a.as_ref().to_string_lossy()).collect();
    Err(Error::Failed {
        command: format!("{program} {}", words.join(" ")),
        status: "exit code not 0".into(),
        message: shorten(if done.errors.trim().is_empty() { &done.text } else { &done.errors }),
    })
}

fn finish(command: &mut Command, program: &str, input: &str) -> Result<Output> {
    let failed = |source| Error::Program { program: program.into(), source };
    command.stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() });
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(failed)?;
    if let Some(mut pipe) = child.stdin.take() {
        // A program that does not read its input to the end says why on its standard error.
        let _ = pipe.write_all(input.as_bytes());
    }
    let done = child.wait_with_output().map_err(failed)?;
    Ok(Output {
        text: String::from_utf8_lossy(&done.stdout).into_owned(),
        errors: String::from_utf8_lossy(&done.stderr).into_owned(),
        success: done.status.success(),
    })
}

fn shorten(text: &str) -> String {
    let text = text.trim();
    match text.char_indices().nth(600) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}
